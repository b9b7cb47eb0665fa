"""The queue of background jobs, on both databases."""

import threading
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from app.jobs import job_queue
from app.jobs.job_queue import JobQueue, LeaseLost
from app.problems import JobEnded, JobNotFound, SameJobUnfinished
from app.sql import database
from app.sql.outages import is_outage
from app.sql.tables import Job, Project, now
from handful.contract.jobs import JobState
from tests import databases

database_url = databases.each


@pytest.fixture
def queue(db, make_version):
    encoder = make_version(db)
    with db.writing() as session:
        session.add_all(Project(name=name, head={}, encoder_id=encoder) for name in ("a", "b"))
    return JobQueue(db, lease_s=30, max_attempts=3)


def lose(queue: JobQueue, job: Job) -> None:
    """Let the lease of a job run out."""
    with queue.db.writing() as session:
        past = now() - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == job.id).values(lease_until=past))


def states(queue: JobQueue, job: Job) -> list[str]:
    """The states that the events tell."""
    return [e.data["state"] for e in queue.events(job.id, 0) if e.kind == "state"]


def test_jobs_are_claimed_in_order_and_end_once(queue):
    first, second = (queue.enqueue("a", "finetune", {"n": n}, "") for n in range(2))

    claim = queue.claim()
    queue.run(claim)
    queue.finish(claim, JobState.SUCCEEDED, result={"encoder": "x"})

    assert claim.job_id == first.id
    assert queue.read("a", first.id).result == {"encoder": "x"}
    assert states(queue, first) == ["queued", "preparing", "running", "succeeded"]
    assert queue.claim().job_id == second.id
    assert queue.claim() is None
    with pytest.raises(LeaseLost):
        queue.finish(claim, JobState.FAILED)


def test_predictions_are_noted_by_who_holds_the_job_and_found_by_their_project(queue):
    job = queue.enqueue("a", "transduce", {}, "")
    claim = queue.claim()
    with pytest.raises(JobEnded, match="preparing and has no predictions yet"):
        queue.predictions("a", job.id)

    queue.keep_file(claim, "1" * 64, "predictions")
    queue.finish(claim, JobState.SUCCEEDED)

    assert queue.predictions("a", job.id) == "1" * 64
    with pytest.raises(JobNotFound):
        queue.predictions("b", job.id)
    with pytest.raises(LeaseLost):
        queue.keep_file(claim, "2" * 64, "predictions")


def test_events_are_numbered_without_gaps(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()
    for epoch in range(3):
        queue.record(claim, "metrics", {"epoch": epoch})

    events = queue.events(job.id, 0)

    assert [event.number for event in events] == [1, 2, 3, 4, 5]
    assert [event.data for event in queue.events(job.id, 3)] == [{"epoch": 1}, {"epoch": 2}]


def test_the_same_job_is_refused_while_the_first_is_unfinished(queue):
    first = queue.enqueue("a", "finetune", {"n": 1}, "labels-1")

    with pytest.raises(SameJobUnfinished, match=str(first.id)):
        queue.enqueue("a", "finetune", {"n": 1}, "labels-1")
    queue.enqueue("a", "finetune", {"n": 2}, "labels-1")
    queue.enqueue("a", "finetune", {"n": 1}, "labels-2")
    queue.enqueue("b", "finetune", {"n": 1}, "labels-1")
    queue.cancel("a", first.id)
    queue.enqueue("a", "finetune", {"n": 1}, "labels-1")


def test_a_lost_worker_can_write_nothing_and_another_goes_on(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    lost = queue.claim()
    queue.run(lost)
    assert queue.keep_file(lost, "c" * 64) is None
    lose(queue, job)

    claim = queue.claim()

    assert (claim.job_id, claim.attempt, claim.checkpoint) == (job.id, 2, "c" * 64)
    for write in (
        lambda: queue.renew(lost),
        lambda: queue.record(lost, "message", {}),
        lambda: queue.keep_file(lost, "d" * 64),
        lambda: queue.finish(lost, JobState.SUCCEEDED),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert queue.read("a", job.id).checkpoint == "c" * 64
    assert states(queue, job)[-2:] == ["interrupted", "preparing"]


def test_a_lease_that_is_renewed_holds(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()
    lose(queue, job)

    assert queue.renew(claim) is False
    assert queue.claim() is None


def test_a_lease_is_renewed_without_long_waits(queue, monkeypatch):
    """A process that stopped in a transaction has locked its job."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 3600)
    queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()

    with queue.holding(claim), pytest.raises(OperationalError) as error:
        queue.renew(claim, wait_s=0.05)

    assert is_outage(error.value)
    assert queue.renew(claim, wait_s=0.05) is False


def test_a_job_whose_worker_is_lost_again_and_again_fails(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    for _ in range(3):
        assert queue.claim() is not None
        lose(queue, job)

    assert queue.claim() is None
    assert queue.read("a", job.id).state == "failed"
    assert (
        "interrupted 3 times, at last because its worker was lost" in queue.read("a", job.id).error
    )


def test_a_lost_job_that_has_no_attempts_left_does_not_hide_those_that_wait(queue):
    lost = queue.enqueue("a", "finetune", {"n": 1}, "")
    for _ in range(3):
        assert queue.claim().job_id == lost.id
        lose(queue, lost)
    waiting = queue.enqueue("a", "finetune", {"n": 2}, "")

    claim = queue.claim()

    assert claim is not None
    assert claim.job_id == waiting.id
    assert queue.read("a", lost.id).state == "failed"


def pass_time(queue: JobQueue, seconds: float) -> None:
    """Let waiting jobs wait for so much longer."""
    with queue.db.writing() as session:
        for job in session.scalars(select(Job)):
            job.due_at -= timedelta(seconds=seconds)


def test_each_attempt_waits_twice_as_long_as_the_one_before(queue):
    queue = replace(queue, backoff_s=100, max_attempts=9)
    queue.enqueue("a", "finetune", {}, "")

    for attempt, pause_s in enumerate((100, 200, 400, 600, 600), start=1):
        queue.interrupt(queue.claim(), "its process was killed")

        pass_time(queue, pause_s - 50)
        assert queue.claim() is None
        assert queue.has_waiting()
        pass_time(queue, 50)
        claim = queue.claim()
        assert claim.attempt == attempt + 1
        queue.interrupt(claim, "its worker was stopped", counts=False)  # which costs no time


def test_a_job_that_is_lost_again_and_again_lets_the_others_go_first(queue):
    queue = replace(queue, backoff_s=100)
    poison, other = (queue.enqueue("a", "finetune", {"n": n}, "") for n in range(2))
    assert queue.claim().job_id == poison.id
    lose(queue, poison)

    claim = queue.claim()
    queue.finish(claim, JobState.SUCCEEDED)

    assert claim.job_id == other.id
    assert queue.claim() is None
    later = queue.enqueue("a", "finetune", {"n": 2}, "")
    pass_time(queue, 1000)
    assert queue.claim().job_id == later.id  # which has waited for longer


def test_a_project_without_a_running_job_comes_before_the_second_job_of_another(queue):
    first, second = (queue.enqueue("a", "finetune", {"n": n}, "") for n in range(2))
    of_another = queue.enqueue("b", "finetune", {}, "")

    claims = [queue.claim().job_id for _ in range(3)]

    assert claims == [first.id, of_another.id, second.id]


def test_who_claims_at_the_same_moment_takes_the_job_of_another_project(queue, monkeypatch):
    for n in range(2):
        queue.enqueue("a", "finetune", {"n": n}, "")
    of_another = queue.enqueue("b", "finetune", {}, "")
    enter, claims = job_queue._enter, []
    thread = threading.Thread(target=lambda: claims.append(queue.claim()))

    def claim_meanwhile(*arguments, **data):
        enter(*arguments, **data)
        if thread.ident is None:
            thread.start()
            thread.join(0.2)  # it can only get on when we have committed

    monkeypatch.setattr(job_queue, "_enter", claim_meanwhile)

    queue.claim()
    thread.join()

    assert claims[0].job_id == of_another.id


def test_a_job_whose_process_was_lost_is_given_back_at_once(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()

    queue.interrupt(claim, "its process was killed")

    assert states(queue, job)[-1] == "interrupted"
    with pytest.raises(LeaseLost):
        queue.renew(claim)
    assert queue.claim().attempt == 2


def test_what_is_written_while_holding_is_written_only_if_the_job_is_ours(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()
    lose(queue, job)
    queue.claim()

    with pytest.raises(LeaseLost), queue.holding(claim) as session:
        session.get_one(Project, job.project_id).description = "a zombie was here"

    with queue.db.reading() as session:
        assert session.get_one(Project, job.project_id).description == ""


def test_a_checkpoint_replaces_the_one_before_and_success_needs_none(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()

    replaced = [queue.keep_file(claim, digit * 64) for digit in "ab"]
    queue.finish(claim, JobState.SUCCEEDED)

    assert replaced == [None, "a" * 64]
    assert queue.read("a", job.id).checkpoint is None


def test_cancelling_ends_what_waits_and_asks_what_runs(queue):
    waiting, running = (queue.enqueue("a", "finetune", {"n": n}, "") for n in range(2))
    queue.cancel("a", waiting.id)
    claim = queue.claim()

    queue.cancel("a", running.id)

    assert queue.read("a", waiting.id).state == "cancelled"
    assert claim.job_id == running.id
    assert queue.renew(claim) is True
    queue.finish(claim, JobState.CANCELLED)
    with pytest.raises(JobEnded, match="has cancelled"):
        queue.cancel("a", running.id)


def test_a_job_that_was_to_be_cancelled_ends_so_when_its_worker_is_lost(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    queue.claim()
    queue.cancel("a", job.id)
    lose(queue, job)

    assert queue.claim() is None
    assert queue.read("a", job.id).state == "cancelled"


def test_what_failed_can_be_tried_again_from_its_checkpoint(queue):
    job = queue.enqueue("a", "finetune", {}, "")
    claim = queue.claim()
    queue.keep_file(claim, "c" * 64)
    with pytest.raises(JobEnded, match="preparing"):
        queue.retry("a", job.id)
    queue.finish(claim, JobState.FAILED, error="the disk is full")

    queue.retry("a", job.id)

    claim = queue.claim()
    assert (claim.attempt, claim.checkpoint) == (1, "c" * 64)
    assert queue.read("a", job.id).error is None


def test_jobs_are_listed_newest_first_by_project(queue):
    jobs = [queue.enqueue("a", "finetune", {"n": n}, "").id for n in range(3)]
    of_another = queue.enqueue("b", "finetune", {}, "").id

    assert [job.id for job in queue.page("a", None, 10)] == jobs[::-1]
    assert [job.id for job in queue.page("a", jobs[2], 1)] == [jobs[1]]
    with pytest.raises(JobNotFound):
        queue.read("a", of_another)
    with pytest.raises(JobNotFound):
        queue.cancel("a", uuid4())


def test_many_workers_never_share_a_job(queue):
    jobs = {queue.enqueue("a", "finetune", {"n": n}, "").id for n in range(20)}
    claimed = []

    def work() -> None:
        while (claim := queue.claim()) is not None:
            claimed.append(claim.job_id)
            queue.finish(claim, JobState.SUCCEEDED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == sorted(jobs)
