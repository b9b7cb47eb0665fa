"""The documentation says what the code does."""

import ast
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
import yaml
from sklearn.datasets import load_digits

from app import cli
from app.cli import demo
from app.settings import Settings
from docs import generate
from handful.client import Handful
from tests.characters import character_file

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])
WRITTEN = [page for page in PAGES if page.parent != REFERENCE]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
CLIENT = {"HANDFUL_URL"}  # that commands read which ask a service
SETTINGS = {f"HANDFUL_{name.upper()}" for name in Settings.model_fields}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    text = FENCE.sub("", page.read_text())
    targets = re.findall(r"(?<!`)\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"\w+:", target)]


def blocks(language: str) -> list[tuple[Path, str]]:
    """The code blocks in a language, of all pages."""
    return [
        (page, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE))
        for page in WRITTEN
        for indent, found, code in FENCE.findall(page.read_text())
        if found == language
    ]


def test_the_reference_is_what_the_code_says(tmp_path):
    generate.write(tmp_path)

    written = {page.name: page.read_text() for page in tmp_path.iterdir()}
    committed = {page.name: page.read_text() for page in REFERENCE.iterdir()}
    assert committed == written, "run `make docs`"


def test_no_setting_of_the_machine_reaches_the_reference(monkeypatch, tmp_path):
    monkeypatch.setenv("HANDFUL_PORT", "9999")
    monkeypatch.setenv("HANDFUL_DATABASE_URL", "postgresql://nowhere/nothing")

    generate.write(tmp_path)

    assert (tmp_path / "settings.md").read_text() == (REFERENCE / "settings.md").read_text()


def test_every_setting_has_its_line_in_the_reference():
    text = (REFERENCE / "settings.md").read_text()

    assert set(re.findall(r"^\| `(HANDFUL_\w+)` \|", text, re.MULTILINE)) == SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page

        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_page_names_only_settings_that_exist(page):
    assert set(re.findall(r"\bHANDFUL_[A-Z_]+\b", page.read_text())) <= SETTINGS | CLIENT


def test_every_page_can_be_reached_from_the_index():
    seen, todo = set(), [ROOT / "docs/index.md"]
    while todo:
        page = todo.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]

    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= seen


def test_the_readme_leads_to_every_address():
    document = json.loads((REFERENCE / "openapi.json").read_text())
    readme = (ROOT / "README.md").read_text()
    reference = (REFERENCE / "api.md").read_text()

    for path, operations in document["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in reference
    assert "docs/reference/api.md" in readme


def test_commands_are_shell_that_parses():
    for page, code in blocks("bash"):
        check = subprocess.run(
            ["bash", "-n"], input=code, text=True, capture_output=True, check=False
        )

        assert check.returncode == 0, f"{name(page)}: {check.stderr}\n{code}"


def run(script: str, url: str, folder: Path, **environment: str) -> str:
    """What commands for a service print, which must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script.replace("http://127.0.0.1:8000", url).replace(
            "curl ", "curl --fail-with-body --no-progress-meter "
        ),
        cwd=folder,
        env=os.environ | {"HANDFUL_PORT": url.rpartition(":")[2]} | environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def working(live_service, do) -> Iterator[None]:
    """The jobs of the service are done, in this process."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            if do(live_service[1]) is None:
                stop.wait(0.2)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_loop_of_the_readme_works_as_it_is_written(live_url, tmp_path):
    (script,) = [
        code for page, code in blocks("bash") if page.name == "README.md" and "curl" in code
    ]
    demo.write_digits(tmp_path / "handful-data/demo/digits")

    output = run(script, live_url, tmp_path)

    assert httpx.get(f"{live_url}/v1/projects/digits").json()["support"] == 10
    assert '"strategy"' in output
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_a_project_is_exported_and_imported_as_the_how_to_says(live_url, tmp_path):
    folder = demo.write_digits(tmp_path / "all")
    with Handful(live_url) as client:
        client.create_project("digits")
        for digit in map(str, range(10)):
            client.create_label("digits", digit)
            first, second, *others = sorted((folder / digit).iterdir())
            client.add_support("digits", digit, [first, second])
            client.add_to_pool("digits", others[:2])
    script = "".join(code for page, code in blocks("bash") if page.stem == "export")

    script = script.replace("handful ", f"{sys.executable} -m app.cli ")

    run(script, live_url, tmp_path, PYTHONPATH=str(ROOT))

    for project in ("digits", "copy", "second"):
        read = httpx.get(f"{live_url}/v1/projects/{project}").json()
        assert (read["labels"], read["support"], read["pool"]) == (10, 20, 20)
    tasks = json.loads((tmp_path / "digits.json").read_text())
    assert len(tasks) == 40
    assert pq.read_table(tmp_path / "digits.parquet").num_rows == 40
    with zipfile.ZipFile(tmp_path / "support.zip") as archive:
        assert len([one for one in archive.namelist() if one.endswith(".png")]) == 20


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.usefixtures("working")
def test_labels_become_a_promoted_version_as_the_how_to_says(live_url, tmp_path):
    script = "".join(code for page, code in blocks("bash") if page.stem == "fine-tune")
    demo.write_digits(tmp_path / "handful-data/demo/digits")

    output = run(script, live_url, tmp_path)

    assert '"state": "succeeded"' in output
    assert '"promoted":true' in output  # back and forth
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "tuned.safetensors").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.timeout(400)  # four jobs and a dozen commands
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.usefixtures("working")
def test_images_become_an_encoder_that_serves_as_the_how_to_says(live_url, tmp_path):
    script = "".join(code for page, code in blocks("bash") if page.stem == "pretrain")
    for old, new in (
        ("/usr/share/datasets/fashion-mnist", str(tmp_path)),
        ("$data 10000", "$data 120"),
        ('"epochs": 60', '"epochs": 1'),
        ('"epochs": 30', '"epochs": 1'),
    ):
        assert old in script
        script = script.replace(old, new)
    write_fashion(tmp_path)

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    output = run(script, live_url, tmp_path, PATH=path)

    assert len(re.findall(r"^\d+ of 30 are right$", output, re.MULTILINE)) == 4
    assert "'against': {'prototypes':" in output  # the verdict
    for name in ("views.png", "painted.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.usefixtures("working")
def test_earlier_labels_teach_how_to_learn_new_ones_as_the_how_to_says(live_url, tmp_path):
    script = "".join(code for page, code in blocks("bash") if page.stem == "meta-train")
    for old, new in (
        ('"ways": [5, 20]', '"ways": 4, "shots": 1'),
        ('"episodes": 600', '"episodes": 20'),
        ('"ways": 5, "shots": [1, 5], "episodes": 400', '"ways": 4, "shots": 1, "episodes": 10'),
        ('"name": "projections"}', '"name": "projections"}, "episodes": 20'),
        ('"name": "discriminative"}]', '"name": "discriminative"}], "recipe": {"epochs": 2}'),
    ):
        assert old in script
        script = script.replace(old, new)
    for folder, labels, numbers in (
        ("earlier", range(9), range(4)),
        ("new", range(20, 22), range(1)),
        ("other", range(20, 22), range(1, 3)),
        ("more", range(20, 22), range(3, 6)),
    ):
        for label in labels:
            place = tmp_path / folder / f"character {label}"
            place.mkdir(parents=True)
            for number in numbers:
                (place / f"{number}.png").write_bytes(character_file(label, number))

    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = run(script, live_url, tmp_path, PATH=path)

    assert "{'train': 7, 'validation': 0, 'test': 2, 'folds': 0}" in output
    assert "frozen at 1 shot " in output
    assert output.count("character 2") >= 4  # each of the four images has an answer
    assert '"method":"projections"' in output
    assert '"current":true' in output
    assert '"head":{"name":"auto"' in output
    assert len(re.findall(r"^(?:adapt|discriminative) [01]\.", output, re.MULTILINE)) == 10


def write_fashion(folder: Path) -> None:
    """Digits in the format and under the names of Fashion-MNIST."""
    found = load_digits()
    pixels = np.kron(found.images, np.ones((4, 4)))[:, 2:30, 2:30] * 15.9  # 28 pixels
    for part, rows in (("train", slice(0, 120)), ("t10k", slice(250, 280))):
        images = b"\0" * 16 + pixels[rows].astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        targets = b"\0" * 8 + found.target[rows].astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(targets))


def test_commands_of_handful_exist():
    known = set(typer.main.get_group(cli.app).commands)
    used = {
        (name(page), command)
        for page, code in blocks("bash")
        for command in re.findall(
            r"(?:^|[ /])handful ([a-z]\w*)",
            re.sub(r"(compose exec|--owner) \S+", "", code),  # other things of that name
            re.MULTILINE,
        )
    }

    assert used
    assert {command for _, command in used} <= known


def test_other_code_parses():
    for _, code in blocks("python"):
        ast.parse(code)
    for _, code in blocks("json"):
        json.loads(code)
    for _, code in blocks("yaml"):
        yaml.compose(code)


def test_the_metrics_that_the_documentation_names_are_those_that_exist(service):
    page = (ROOT / "docs/how-to/monitor-it.md").read_text()
    text = service.get("/metrics").text

    named = set(re.findall(r"`(handful_\w+)", page))
    known = set(re.findall(r"^# TYPE (handful_\w+) ", text, re.MULTILINE))
    known -= {metric for metric in known if metric.endswith("_created")}

    assert named == known
