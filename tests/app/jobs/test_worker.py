"""The worker and its processes: real ones, ended in every way there is."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from app.encoders.promotion import Promotions
from app.jobs import process
from app.jobs import worker as module
from app.jobs.context import JobFailed
from app.jobs.job_queue import JobQueue
from app.jobs.worker import Worker
from app.sql import database as db
from app.sql.database import Database
from bench.processes import children
from tests import databases
from tests.app.jobs.conftest import submit_job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RECIPE = {"epochs": 4, "rate": 3e-3, "batch_size": 8}
OPTIONS = {
    "methods": [{"name": "full"}],
    "recipe": RECIPE,
    "augmentation": [],
    "folds": 2,
    "promote": "never",
}
LONG = OPTIONS | {"recipe": RECIPE | {"epochs": 100_000}}
LEASE_S = 60.0  # nobody waits for it to run out
SHORT_LEASE_S = 4.0
PATIENCE_S = 240.0


database_url = databases.each


@pytest.fixture
def settings(settings):
    """A checkpoint after each epoch."""
    return settings.model_copy(
        update={
            "lease_seconds": LEASE_S,
            "checkpoint_seconds": 0.0,
            "training_threads": 1,
            "job_backoff_seconds": 0.1,
        }
    )


@pytest.fixture
def start(striped, settings):
    """Starts a worker in a thread of this process; its jobs run in processes of their own."""
    with ExitStack() as running:

        def start(lease_s: float = LEASE_S) -> None:
            lasting = settings.model_copy(update={"lease_seconds": lease_s})
            worker = Worker(lasting, striped.app.state.parts.queue.db)
            thread = threading.Thread(target=worker.run)
            thread.start()
            running.callback(thread.join)
            running.callback(worker.stop.set)

        yield start


@pytest.fixture
def worker(start):
    start()


def wait_for(what):
    deadline = time.monotonic() + PATIENCE_S
    while not (outcome := what()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)  # each look takes its share of a core from what we wait for
    return outcome


def wait_until(service, location, *states):
    return wait_for(lambda: (job := service.get(location).json())["state"] in states and job)


def epochs(service, location):
    items = service.get(f"{location}/events?limit=1000").json()["items"]
    return [e["data"]["epoch"] for e in items if e["kind"] == "metrics"]


def state_events(service, location):
    items = service.get(f"{location}/events?limit=1000").json()["items"]
    return [e["data"] for e in items if e["kind"] == "state"]


def job_process() -> int:
    """The process of the job that runs below this one."""
    return wait_for(lambda: children(os.getpid()))[0]


def start_slowly(*arguments):
    """As the process of a job that needs longer than a lease to import what it needs."""
    time.sleep(SHORT_LEASE_S + 1)
    end_at_once(*arguments)


def end_at_once(*arguments):
    """As the process of a job that says how much of its memory is looked through for garbage."""

    def build(*_):
        raise JobFailed(f"{gc.get_freeze_count()} objects stay")

    process.build = build  # type: ignore[attr-defined]
    process.run_job(*arguments)


def end_early(how, *arguments):
    """As a process that a signal comes for in its third epoch, in the middle of a transaction."""
    record = JobQueue.record

    def recording(queue, claim, kind, data):
        record(queue, claim, kind, data)
        if claim.attempt == 1 and kind == "metrics" and data["epoch"] == 3:
            with queue.holding(claim):
                os.kill(os.getpid(), how)

    JobQueue.record = recording  # type: ignore[method-assign]
    process.run_job(*arguments)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_runs_to_its_end_in_a_process_of_its_own(striped, worker):
    location = submit_job(striped, "finetune", OPTIONS)

    job = wait_until(striped, location, "succeeded", "failed")

    assert job["state"] == "succeeded", job["error"]
    assert job["attempt"] == 1
    assert [t["state"] for t in state_events(striped, location)] == [
        "queued",
        "preparing",
        "running",
        "succeeded",
    ]


@databases.only_sqlite
def test_a_process_that_starts_slowly_does_not_stand_still(striped, settings, monkeypatch):
    monkeypatch.setattr(module, "_run_job", start_slowly)
    short = settings.model_copy(update={"lease_seconds": SHORT_LEASE_S})
    location = submit_job(striped, "finetune", OPTIONS)

    Worker(short, striped.app.state.parts.queue.db).run(until_idle=True)

    job = striped.get(location).json()
    assert (job["state"], job["attempt"]) == ("failed", 1)
    assert "objects stay" in job["error"]


@databases.only_sqlite
def test_a_job_does_not_look_for_garbage_among_what_was_loaded_before(striped, worker, monkeypatch):
    # In a fork that takes half a second of CPU in which no thread says that it still lives.
    monkeypatch.setattr(module, "_run_job", end_at_once)
    location = submit_job(striped, "finetune", OPTIONS)

    job = wait_until(striped, location, "failed")

    assert int(job["error"].split()[0]) > 100_000


def test_a_running_job_is_cancelled_and_its_process_gone(striped, worker):
    location = submit_job(striped, "finetune", LONG)
    wait_for(lambda: epochs(striped, location))
    pid = job_process()

    striped.post(f"{location}/cancel")

    job = wait_until(striped, location, "cancelled")
    assert job["cancel_requested"]
    wait_for(lambda: not exists(pid))
    count = len(epochs(striped, location))
    time.sleep(0.5)
    assert len(epochs(striped, location)) == count


@pytest.mark.parametrize(
    ("how", "lease_s", "reason"),
    [(signal.SIGKILL, LEASE_S, "SIGKILL"), (signal.SIGSTOP, SHORT_LEASE_S, "stood still")],
)
def test_a_job_whose_process_dies_or_stands_still_goes_on_from_its_checkpoint(
    striped, start, monkeypatch, how, lease_s, reason
):
    start(lease_s)
    monkeypatch.setattr(module, "_run_job", partial(end_early, how))
    location = submit_job(striped, "finetune", OPTIONS)

    job = wait_until(striped, location, "succeeded", "failed")
    assert job["state"] == "succeeded", job["error"]
    reasons = [t["reason"] for t in state_events(striped, location) if t["state"] == "interrupted"]
    assert reasons  # with a short lease a busy machine may interrupt it once more
    assert all(reason in given for given in reasons)
    assert job["attempt"] == 1 + len(reasons)
    told_epochs = epochs(striped, location)
    assert told_epochs[:4] == [1, 2, 3, 4]  # each epoch of the first fold once


@databases.only_sqlite
def test_a_pretraining_that_was_killed_ends_as_if_it_had_not_been(
    striped, settings, worker, monkeypatch
):
    options = {
        "method": {"name": "moco"},
        "encoder": {"name": "conv4", "options": {"width": 8, "image_side": 16}},
        "epochs": 5,
        "batch_size": 12,
        "promote": "never",
    }

    def run():
        location = submit_job(striped, "pretrain", options)
        job = wait_until(striped, location, "succeeded", "failed")
        assert job["state"] == "succeeded", job["error"]
        items = striped.get(f"{location}/events?limit=1000").json()["items"]
        curve = [(e["data"]["epoch"], e["data"]["loss"]) for e in items if e["kind"] == "metrics"]
        version = f"/v1/projects/birds/encoders/{job['result']['version']}/weights"
        return curve, striped.get(version).content, job["attempt"]

    curve, weights, _ = run()
    assert len(curve) == 5

    monkeypatch.setattr(module, "_run_job", partial(end_early, signal.SIGKILL))
    curve_again, same, attempts = run()
    assert attempts == 2
    assert curve_again == curve
    assert same == weights


class Endless:
    """A process that works until it is killed."""

    def __init__(self, **_):
        self.exitcode = None

    def start(self):
        pass

    def join(self, timeout=None):
        assert self.exitcode is not None or timeout is not None

    def is_alive(self):
        return self.exitcode is None

    def kill(self):
        self.exitcode = -signal.SIGKILL


def test_a_job_that_runs_for_longer_than_it_may_fails(striped, settings, monkeypatch):
    processes = SimpleNamespace(
        Process=Endless, Value=lambda *_, **__: SimpleNamespace(value=time.monotonic() + 1000)
    )
    monkeypatch.setattr(module, "_processes", processes)
    location = submit_job(striped, "finetune", LONG)
    limited = settings.model_copy(update={"job_max_seconds": 0.01})

    Worker(limited, striped.app.state.parts.queue.db).run(until_idle=True)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "longer than 0.01 s (HANDFUL_JOB_MAX_SECONDS)" in job["error"]


@databases.only_sqlite
def test_a_lease_is_kept_while_what_jobs_are_forked_from_loads(striped, settings, monkeypatch):
    renewed = threading.Event()

    class Late(Endless):
        def start(self):
            assert renewed.wait(PATIENCE_S)
            self.exitcode = 0

    processes = SimpleNamespace(Process=Late, Value=lambda *_, **__: SimpleNamespace(value=0.0))
    monkeypatch.setattr(module, "_processes", processes)
    location = submit_job(striped, "finetune", LONG)
    short = settings.model_copy(update={"lease_seconds": 0.1})
    worker = Worker(short, striped.app.state.parts.queue.db)

    def renew(queue, claim, wait_s=None):
        renewed.set()
        worker.stop.set()

    monkeypatch.setattr(JobQueue, "renew", renew)
    worker.run()

    assert renewed.is_set()
    assert striped.get(location).json()["attempt"] == 1


def test_a_stopped_worker_gives_its_job_back_and_the_attempt_does_not_count(striped, settings):
    first = Worker(settings, striped.app.state.parts.queue.db)
    thread = threading.Thread(target=first.run)
    thread.start()
    location = submit_job(striped, "finetune", LONG)
    wait_for(lambda: epochs(striped, location))

    first.stop.set()
    thread.join(PATIENCE_S)

    job = striped.get(location).json()
    assert (job["state"], job["attempt"]) == ("interrupted", 0)
    assert state_events(striped, location)[-1]["reason"] == "its worker was stopped"


@databases.only_sqlite
def test_the_process_of_a_job_dies_with_its_worker(striped, settings):
    location = submit_job(striped, "finetune", LONG)
    command = [sys.executable, "-m", "app.cli", "worker"]
    environment = os.environ | {
        "HANDFUL_DATA_DIR": str(settings.data_dir),
        "HANDFUL_DATABASE_URL": settings.database_url,
        "HANDFUL_DEVICE": "cpu",
        "HANDFUL_LEASE_SECONDS": str(LEASE_S),
        "HANDFUL_TRAINING_THREADS": "1",
    }
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: epochs(striped, location))
        (pid,) = wait_for(lambda: children(process.pid))
        process.kill()
        process.wait(PATIENCE_S)

        wait_for(lambda: not exists(pid))
    finally:
        process.kill()
    count = len(epochs(striped, location))
    time.sleep(0.5)
    assert len(epochs(striped, location)) == count


@databases.only_sqlite
def test_a_promotion_waits_while_the_database_is_locked(striped, settings, do, monkeypatch):
    location = submit_job(striped, "finetune", OPTIONS | {"promote": "always"})
    monkeypatch.setattr(db, "BUSY_TIMEOUT_S", 1)  # of the connections of the job
    impatient = Database(settings.database)
    write, locks = Promotions._write, iter(range(2))  # for the first try, and for the second

    def lock_and_write(self, *arguments):
        if next(locks, None) is not None:
            locked = threading.Event()
            threading.Thread(target=hold_lock, args=(settings.database, locked)).start()
            locked.wait(PATIENCE_S)
        write(self, *arguments)

    monkeypatch.setattr(Promotions, "_write", lock_and_write)
    queue = JobQueue(impatient)
    promotions = replace(striped.app.state.parts.promotions, db=impatient)

    do(striped, db=impatient, queue=queue, promotions=promotions)

    job = striped.get(location).json()
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert job["result"]["promoted"]
    impatient.close()


def hold_lock(url: str, locked: threading.Event) -> None:
    """Keep others from writing for longer than they wait."""
    holder = Database(url)
    with holder.writing() as session:
        session.execute(text("SELECT 1"))  # only now does the transaction begin
        locked.set()
        time.sleep(2)
    holder.close()


@databases.only_sqlite
def test_the_worker_command_ends_when_no_job_waits(striped, settings):
    location = submit_job(striped, "finetune", OPTIONS)
    environment = os.environ | {
        "HANDFUL_DATA_DIR": str(settings.data_dir),
        "HANDFUL_DATABASE_URL": settings.database_url,
        "HANDFUL_DEVICE": "cpu",
    }

    subprocess.run(
        [sys.executable, "-m", "app.cli", "worker", "--until-idle"],
        env=environment,
        check=True,
        timeout=100,
        capture_output=True,
    )

    assert striped.get(location).json()["state"] == "succeeded"


def test_a_worker_loads_nothing_that_computes():
    # It would take half a gigabyte beside the service, to look into a table.
    script = "import sys, app.jobs.worker; assert not {'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_jobs_are_forked_from_asks_nothing_of_a_gpu():
    # CUDA cannot be used in a fork of a process that has used it.
    script = """
import torch

def refuse(*_):
    raise AssertionError("asked for a device")

torch._C._cuda_getDeviceCount = torch._C._cuda_init = refuse
import app.jobs.process
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", f"import threading{script}"], check=True)


SIGNALS = """
import os, signal, sys, threading
from app.jobs.worker import stop_on_signals

sys.setswitchinterval(1e-6)  # so that signals come while others are handled
stop = threading.Event()
stop_on_signals(stop)
send = threading.Thread(
    target=lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(20_000)]
)
send.start()
while send.is_alive():
    stop.wait(0.001)
assert stop.wait(10)
"""


def test_signals_that_interrupt_each_other_stop_a_worker():
    # With an event set in the handler itself, this never ended.
    process = subprocess.run([sys.executable, "-c", SIGNALS], timeout=PATIENCE_S, check=False)

    assert process.returncode == 0
