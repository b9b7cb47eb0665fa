"""Commands that ask a service, and what they load for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli
from app.cli.asking import local_address
from app.cli.transfer import FORMATS
from app.exchange.formats import formats

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "torchvision", "timm", "sqlalchemy", "fastapi", "numpy", "uvicorn"}
COMMANDS = {
    "help": ["--help"],
    "version": ["version"],
    "projects": ["projects"],
    "report": ["report", "birds"],
    "evaluate": ["evaluate", "birds", "--ways=2", "--shots=1", "--queries=1", "--episodes=9"],
    "rank": ["rank", "birds"],
    "import": ["import", "{photos}", "--project", "birds"],
    "classify": ["classify", "{photos}/0.png", "--project", "birds"],
    "jobs": ["jobs", "list", "--project", "birds"],
    "export": ["export", "{photos}/birds.zip", "--project", "birds"],
}
LOADED = """
import sys
from app.cli import main
try:
    main()
finally:
    print("loaded", *sys.modules, file=sys.stderr)
"""


@pytest.fixture
def birds_url(live_url, tmp_path, png) -> str:
    """A service with a project of two labels and a pool."""
    for colour in ("red", "blue"):
        folder = tmp_path / "photos" / colour
        folder.mkdir(parents=True)
        for n in range(6):
            (folder / f"{n}.png").write_bytes(png(colour, n))
    run("import", tmp_path / "photos", "--project", "birds", "--support", 3, "--url", live_url)
    return live_url


def run(*arguments) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_client_command_loads_nothing_of_the_service(command, birds_url, tmp_path):
    folder = tmp_path / "photos" / "red"
    arguments = [part.format(photos=folder) for part in COMMANDS[command]]

    result = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin", "HANDFUL_URL": birds_url},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout
    assert not HEAVY & {name.partition(".")[0] for name in result.stderr.split()}


def test_the_client_loads_nothing_of_the_service():
    code = "import sys, handful; print(*sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert {"handful", "httpx", "pydantic"} <= loaded
    assert not (HEAVY | {"app", "models"}) & loaded


def test_projects_are_listed(birds_url):
    header, row = run("projects", "--url", birds_url).splitlines()

    assert header.split("\t")[:3] == ["project", "name", "labels"]
    assert row.split("\t")[1:5] == ["birds", "2", "6", "6"]


def test_what_is_listed_comes_as_json_too(birds_url):
    (project,) = map(json.loads, run("projects", "--json", "--url", birds_url).splitlines())
    ranked = run("rank", "birds", "--budget", 2, "--json", "--url", birds_url).splitlines()
    report = json.loads(run("report", "birds", "--json", "--url", birds_url))
    settings = map(json.loads, run("settings", "--json").splitlines())

    assert (project["name"], project["support"], project["pool"]) == ("birds", 6, 6)
    assert len(ranked) == 2
    assert json.loads(ranked[0])["suggestions"][0]["label"] in ("red", "blue")
    assert report["support"] == 6
    assert {"HANDFUL_PORT"} <= {setting["variable"] for setting in settings}
    assert run("jobs", "list", "--project", "birds", "--json", "--url", birds_url) == ""


def test_an_id_is_never_broken_over_lines_when_piped(birds_url):
    lines = run("rank", "birds", "--url", birds_url).splitlines()

    assert len(lines) == 1 + 6
    assert {len(line.split("\t")[0]) for line in lines[1:]} == {36}


def test_a_report_says_what_there_is_and_what_is_not_known_yet(birds_url):
    text = run("report", "birds", "--url", birds_url)

    assert "6 labeled images, 6 in the pool" in text
    assert "enough? cannot be told yet" in text
    assert "red\t3" in text


def test_without_an_address_this_machine_is_asked(monkeypatch):
    for name in ("HANDFUL_HOST", "HANDFUL_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert local_address() == "http://127.0.0.1:8000"

    monkeypatch.setenv("HANDFUL_HOST", "0.0.0.0")
    monkeypatch.setenv("HANDFUL_PORT", "9000")
    assert local_address() == "http://127.0.0.1:9000"

    monkeypatch.setenv("HANDFUL_HOST", "::1")
    assert local_address() == "http://[::1]:9000"


def test_export_names_every_format():
    assert list(FORMATS) == list(formats)


def test_an_evaluation_is_a_table_a_number_of_shots_and_head(birds_url):
    size = ["--ways", 2, "--shots", 1, "--shots", 2, "--queries", 1]
    options = [*size, "--episodes", 10, "--seconds", 60]
    heads = ["--head", "cosine", "--head", "ridge"]

    text = run("evaluate", "birds", *options, *heads, "--url", birds_url)
    answer = json.loads(run("evaluate", "birds", *options, "--json", "--url", birds_url))

    lines = [line.split("\t") for line in text.splitlines()]
    assert lines[0] == ["10 of 10 episodes, from 6 images of 2 labels"]
    assert [row[:2] for row in lines if row[0] in ("1", "2")] == [
        ["1", "cosine"],
        ["1", "ridge"],
        ["2", "cosine"],
        ["2", "ridge"],
        ["1", "cosine than ridge"],
        ["2", "cosine than ridge"],
    ]
    assert "100.0 % (100.0 to 100.0)" in text
    assert answer["done"] == 10
