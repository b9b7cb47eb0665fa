"""The rules of the house that no tool checks."""

import inspect
import re
import subprocess
from pathlib import Path

import pytest

import models
from app.exchange.formats import formats
from models.acquisition.strategies import strategies
from models.augmentation.kinds import augmentations
from models.augmentation_search.searches import searches
from models.encoders.architectures import architectures
from models.finetuning.methods import methods
from models.heads.kinds import heads
from models.pretraining.methods import methods as pretexts
from models.runtimes.kinds import runtimes

ROOT = Path(__file__).parent.parent
PLUG_INS = [
    pytest.param(kind, name, plugin, id=f"{kind}-{name}")
    for kind, registry in {
        "models/acquisition/strategies": strategies,
        "models/augmentation/kinds": augmentations,
        "models/augmentation_search/searches": searches,
        "models/encoders/architectures": architectures,
        "models/finetuning/methods": methods,
        "models/heads/kinds": heads,
        "models/pretraining/methods": pretexts,
        "models/runtimes/kinds": runtimes,
        "app/formats": formats,
    }.items()
    for name, plugin in registry.items()
]
SHAPE = re.compile(r'(?:Bool|Float|Int|UInt8)\[\w+, " ?([^"]+)"\]')
AXIS = re.compile(r"\b([A-Z]) {2}\w")


@pytest.mark.parametrize(("kind", "name", "plugin"), PLUG_INS)
def test_a_plug_in_is_named_as_its_file_and_has_a_test(kind, name, plugin):
    assert plugin.__name__.lower() == name.replace("_", "")
    assert inspect.getsourcefile(plugin) == str(ROOT / kind / f"{name}.py")
    assert (ROOT / "tests" / kind / f"test_{name}.py").exists()


@pytest.mark.parametrize(("kind", "name", "plugin"), PLUG_INS)
def test_a_plug_in_says_what_it_does_and_documents_its_options(kind, name, plugin):
    assert inspect.getdoc(plugin)
    assert plugin.__dataclass_params__.frozen
    assert all(field.kw_only for field in plugin.__dataclass_fields__.values())


def test_every_axis_of_a_signature_is_defined():
    defined = set(AXIS.findall(models.__doc__))
    used = {
        axis
        for path in ROOT.glob("models/**/*.py")
        for shape in SHAPE.findall(path.read_text())
        for axis in shape.split()
        if axis.isalpha()
    }

    assert used
    assert used <= defined


def test_tests_mirror_the_code():
    whole = {
        "test_bad_input",
        "test_concurrency",
        "test_hard_cases",
        "test_labeling_flow",
        "test_schema",
        "test_tutorial",
    }
    for path in ROOT.glob("tests/*/**/test_*.py"):
        module = ROOT / path.relative_to(ROOT / "tests").with_name(path.name[len("test_") :])
        contract = path.stem == f"test_{path.parent.name}" or path.stem == "test_strategies"

        assert module.exists() or contract or path.stem in whole, path


def test_nothing_names_the_machine_that_it_was_written_on():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"/(?:work|home|Users)/\w+/")

    found = [
        f"{name}: {match.group()}"
        for name in listed.stdout.splitlines()
        if (ROOT / name).is_file()
        for match in home.finditer((ROOT / name).read_text(errors="ignore"))
    ]

    assert not found
