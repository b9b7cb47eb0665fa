"""The skeleton of a job that learns, with a kind that counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from app.jobs.context import JobContext, JobFailed
from app.jobs.training import LearningStep, learn
from handful.contract.jobs import Progress
from tests.app.jobs.conftest import Killed


@dataclass(frozen=True)
class Numbers:
    """What to count."""

    last: int

    def pack(self):
        return {"last": self.last}


@dataclass
class Counter:
    """Counts up to the last number; `killed_at` ends it in that step, `full_at` memory."""

    last: int
    batch_size: int
    at: int = 0
    killed_at: int = 0
    memory: int = 1000

    def steps(self) -> Iterator[LearningStep]:
        while self.at < self.last:
            self.at += 1
            if self.at == self.killed_at:
                raise Killed
            if self.batch_size > self.memory:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield LearningStep(
                Progress(stage="counting", share=self.at / self.last, title=str(self.at)),
                seconds=2.0,
                remaining=self.last - self.at,
                quiet=self.at % 2 == 0,
            )

    def state(self):
        return {"at": self.at}


@dataclass
class Counting:
    """A kind of job."""

    last: int = 5
    killed_at: int = 0
    memory: int = 1000

    def gather(self, context, packed):
        return Numbers(self.last)

    def begin(self, context, material, batch_size, state):
        at = state["at"] if state else 0
        return Counter(material.last, batch_size, at, self.killed_at, self.memory)


def events(context: JobContext, kind: str) -> list[dict]:
    recorded = context.queue.events(context.claim.job_id, 0)
    return [event.data for event in recorded if event.kind == kind]


def titles(context: JobContext) -> list[str]:
    return [data["title"] for data in events(context, "metrics")]


def taken_up_again(context: JobContext) -> JobContext:
    """Another process goes on with the job."""
    context.queue.interrupt(context.claim, "its worker was lost")
    claim = context.queue.claim()
    assert claim is not None
    return replace(context, claim=claim)


def test_every_step_that_is_worth_it_is_told_with_the_time_left(context):
    material, counter = learn(context, Counting())

    assert (material.last, counter.at) == (5, 5)
    assert titles(context) == ["1", "3", "5"]
    assert [data["seconds_left"] for data in events(context, "metrics")] == [8, 4, 0]
    assert [data["state"] for data in events(context, "state")][-1] == "running"


def test_an_interrupted_job_goes_on_from_its_checkpoint_and_tells_each_step_once(context):
    with pytest.raises(Killed):
        learn(context, Counting(killed_at=4))
    context = taken_up_again(context)

    _, counter = learn(context, Counting())

    assert counter.at == 5
    assert titles(context) == ["1", "3", "5"]


def test_steps_told_before_the_first_checkpoint_are_told_once(context):
    patient = replace(context, checkpoint_s=1000.0)
    with pytest.raises(Killed):
        learn(replace(patient, blobs=_NoBlobs()), Counting(killed_at=4))
    context = taken_up_again(context)

    learn(context, Counting())

    assert titles(context) == ["1", "3", "5"]


class _NoBlobs:
    """A store whose process is killed when it is used."""

    def put(self, content):
        raise Killed


def test_a_checkpoint_of_other_material_is_of_no_use(context):
    with pytest.raises(Killed):
        learn(context, Counting(killed_at=4))
    context = taken_up_again(context)

    learn(context, Counting(last=3))

    assert "have changed since the checkpoint" in events(context, "message")[0]["text"]
    assert titles(context) == ["1", "3", "1", "3"]


def test_half_the_batch_is_tried_once(context):
    _, counter = learn(context, Counting(memory=8), batch_size=16)

    assert counter.batch_size == 8
    assert events(context, "message") == [
        {"text": "out of memory: starting over with batches of 8"}
    ]


def test_a_job_that_was_halved_goes_on_with_half(context):
    with pytest.raises(Killed):
        learn(context, Counting(memory=8, killed_at=3), batch_size=16)
    context = taken_up_again(context)

    _, counter = learn(context, Counting(memory=8), batch_size=16)

    assert (counter.batch_size, counter.at) == (8, 5)
    assert len(events(context, "message")) == 1
    assert titles(context) == ["1", "3", "5"]


def test_without_memory_for_half_a_batch_there_is_advice(context):
    with pytest.raises(JobFailed, match="even with batches of 8: use a smaller batch_size"):
        learn(context, Counting(memory=4), batch_size=16)


def test_what_has_no_batches_is_not_halved(context):
    with pytest.raises(torch.OutOfMemoryError):
        learn(context, Counting(memory=-1))
