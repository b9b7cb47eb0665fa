"""Handful, seen from a program: `Handful` waits for answers, `AsyncHandful` does not.

    from handful import Handful

    with Handful("http://127.0.0.1:8000") as handful:
        handful.create_project("birds")
        handful.add_images("birds", ["a.jpg", "b.jpg"], label="owl")

What methods return is in `handful.contract`. Nothing here needs PyTorch or a database.
"""

from handful.client import AsyncHandful, Handful
from handful.contract.jobs import JobState
from handful.contract.webhooks import Event
from handful.retries import RequestRefused, ServiceUnreachable
from handful.steps import AddedImages, JobUnsuccessful

__all__ = [
    "AddedImages",
    "AsyncHandful",
    "Event",
    "Handful",
    "JobState",
    "JobUnsuccessful",
    "RequestRefused",
    "ServiceUnreachable",
]
