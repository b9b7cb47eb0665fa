"""What a benchmark starts, it ends."""

import signal
import subprocess

import pytest

from bench import processes
from bench.processes import Command, Server
from tests.server_process import wait_until

# A service that is never ready, and does not hear when it is asked to stop.
DEAF = """import pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path("deaf").touch()
time.sleep(600)
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The processes that commands start, which are deaf."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()  # or one that is installed would go before it
    (tmp_path / "app" / "cli.py").write_text(DEAF)
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    running = []

    class Watched(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            running.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    yield running
    for process in running:
        process.kill()
        process.wait()


def test_a_server_that_does_not_become_ready_is_ended(started, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "START_S", 0.0)

    with pytest.raises(RuntimeError, match="nothing happened"):
        Server(tmp_path).start()

    assert [process.poll() for process in started] == [-signal.SIGKILL]


def test_a_server_whose_start_is_interrupted_is_ended(started, tmp_path, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise SystemExit("stopped")

    monkeypatch.setattr(processes, "wait_for", interrupt)

    with pytest.raises(SystemExit), Server(tmp_path):
        pass

    assert [process.poll() for process in started] == [-signal.SIGKILL]


def test_what_does_not_hear_is_killed(started, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_S", 0.1)
    command = Command("worker", data=tmp_path)
    command.start()
    wait_until((tmp_path / "deaf").exists)

    with pytest.raises(subprocess.TimeoutExpired):
        command.stop(signal.SIGINT)

    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert command.pid is None
