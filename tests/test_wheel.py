"""The wheel as a user gets it: installed outside the clone, beside code of the user's own."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
from handful import Handful

with Handful("http://127.0.0.1:8000") as client:
    project = client.create_project("birds")
    reveal_type(project.name)
    answer = client.classify("birds", ["a.jpg"], top_k=3)
    reveal_type(answer.predictions[0].probability)
    client.classify("birds", ["a.jpg"], top="many")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """What is published: the one that a release has built, or one made of the clone."""
    if released := os.environ.get("HANDFUL_TEST_WHEEL"):
        return Path(released)
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, folder, ROOT], check=True, capture_output=True)
    (built,) = folder.glob("handful-*.whl")
    return built


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder of a user who also calls packages `app` and `models`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("app", "models"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise AssertionError('not that of Handful')\n")
    return folder


@pytest.fixture(scope="module")
def client_only(wheel, tmp_path_factory) -> Path:
    """An environment after `pip install handful`; its folder of commands."""
    return _environment(tmp_path_factory.mktemp("client"), wheel, "--constraint", _constraints())


@pytest.fixture(scope="module")
def server(wheel, tmp_path_factory) -> Path:
    """One that has what `handful[server]` needs, as it lies in the environment of this test."""
    folder = tmp_path_factory.mktemp("server")
    bin_folder = _environment(folder, wheel, "--no-deps")
    (site,) = folder.glob("lib/python*/site-packages")
    # Its own .pth files, such as the one that points at the clone, do not count there.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


def _environment(folder: Path, wheel: Path, *options: str) -> Path:
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        *options,
    ]
    subprocess.run([*install, wheel], check=True, capture_output=True)
    return python.parent


def _constraints() -> str:
    return str(ROOT / "constraints.txt")


def _run(command: list[object], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.defpath, **more},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_client_needs_nothing_of_the_service(client_only, project):
    script = "import handful; print(handful.Handful.__module__)"
    imported = _run([client_only / "python", "-c", script], project)
    version = _run([client_only / "handful", "version"], project)
    helped = _run([client_only / "handful", "--help"], project)

    assert imported.stdout.strip() == "handful.client", imported.stderr
    assert version.stdout.startswith("handful "), version.stderr
    assert "projects" in helped.stdout
    installed = {path.name for path in client_only.parent.glob("lib/python*/site-packages/*")}
    assert {"handful", "httpx", "pydantic", "typer", "rich"} <= installed
    assert not {"torch", "sqlalchemy", "fastapi", "timm", "numpy"} & installed


@pytest.mark.parametrize("command", ["serve", "worker", "migrate", "settings", "sweep", "check"])
def test_a_command_of_the_service_says_what_to_install(command, client_only, project):
    refused = _run([client_only / "handful", command], project)

    assert refused.returncode == 1
    assert refused.stderr.endswith("pip install 'handful[server]'\n")
    assert len(refused.stderr.splitlines()) == 1


def test_a_type_checker_sees_what_methods_return(client_only, project):
    (project / "script.py").write_text(SCRIPT)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", project / "cache"]

    checked = _run([*mypy, "--python-executable", client_only / "python", "script.py"], project)

    text = checked.stdout
    assert 'Revealed type is "str"' in text or 'Revealed type is "builtins.str"' in text, text
    assert "float" in text
    assert 'Unexpected keyword argument "top"' in text
    assert "Found 1 error in 1 file" in text


def test_the_service_runs_from_the_wheel(server, project, tmp_path):
    settings = {
        "HANDFUL_DATA_DIR": str(tmp_path / "data"),
        "HANDFUL_ENCODER": "conv4:8",
        "HANDFUL_RUNTIME": "pytorch",
        "HANDFUL_WORKERS": "0",
        "HANDFUL_DRAIN_SECONDS": "0",
        "HANDFUL_LOG_LEVEL": "WARNING",
    }

    migrated = _run([server / "handful", "migrate"], project, **settings)
    assert migrated.stdout == "the database is at head\n", migrated.stderr

    with subprocess.Popen(
        [server / "handful", "serve", "--port", "0"],
        cwd=project,
        env={"PATH": os.defpath, **settings},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if line.startswith("ready: "):
                    break
            assert lines[-1].startswith("ready: http://127.0.0.1:"), lines
            with httpx.Client(base_url=lines[-1].removeprefix("ready: ").strip()) as client:
                assert "<html" in client.get("/").text
                for name in ("app.js", "style.css", "lib/plotly.min.js"):
                    assert client.get(f"/web/{name}").status_code == 200, name
                assert client.get("/v1/projects").json()["items"] == []
        finally:
            process.terminate()
    assert process.returncode == 0
