"""Checkpoints of a job."""

from dataclasses import replace

import pytest
import torch

from app.jobs.checkpoints import Checkpoint, Checkpoints
from app.jobs.context import JobContext
from models.training.checkpoint import pack

STATE = Checkpoint({"labels": ["a"]}, {"weights": torch.arange(3), "epoch": 2}, 8)


def reopened(context: JobContext) -> JobContext:
    """As another process sees the job."""
    job = context.queue.read("birds", context.claim.job_id)
    return replace(context, claim=context.claim._replace(checkpoint=job.checkpoint))


def messages(context: JobContext) -> list[str]:
    events = context.queue.events(context.claim.job_id, 0)
    return [event.data["text"] for event in events if event.kind == "message"]


def test_a_state_is_as_it_was(context):
    Checkpoints(context).write(lambda: STATE)

    read = Checkpoints(reopened(context)).resume()

    assert read is not None
    assert (read.material, read.batch_size) == (STATE.material, STATE.batch_size)
    assert read.learner["weights"].tolist() == [0, 1, 2]


def test_a_new_one_replaces_the_file_of_the_last(context):
    checkpoints = Checkpoints(context)
    checkpoints.write(lambda: STATE)
    first = reopened(context).claim.checkpoint
    checkpoints.write(lambda: STATE._replace(batch_size=4))

    assert reopened(context).claim.checkpoint != first
    with pytest.raises(FileNotFoundError):
        context.blobs.get(first)


def test_none_is_written_while_the_last_is_young(context):
    checkpoints = Checkpoints(replace(context, checkpoint_s=1000.0))
    checkpoints.write(lambda: STATE)
    first = reopened(context).claim.checkpoint

    checkpoints.write(lambda: STATE._replace(batch_size=4))

    assert reopened(context).claim.checkpoint == first


def test_without_one_the_job_begins(context):
    assert Checkpoints(context).resume() is None
    assert messages(context) == []


@pytest.mark.parametrize("content", [b"damaged", pack({"selection": {}, "batch_size": 8})])
def test_one_that_cannot_be_read_or_is_of_an_older_service_starts_the_job_over(context, content):
    context.queue.keep_file(context.claim, context.blobs.put(content))

    assert Checkpoints(reopened(context)).resume() is None
    assert messages(context) == ["the checkpoint cannot be read: starting over"]


def test_a_file_that_is_gone_starts_the_job_over(context):
    context.queue.keep_file(context.claim, "0" * 64)

    assert Checkpoints(reopened(context)).resume() is None
