"""Webhooks: who is told what happens in a project."""

import enum
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, Field

from handful.contract.common import Schema, Text


class Event(enum.StrEnum):
    """What happens in a project."""

    LABEL_SET = "label.set"
    JOB_FINISHED = "job.finished"
    VERSION_PROMOTED = "version.promoted"
    POOL_EXHAUSTED = "pool.exhausted"


class WebhookWrite(Schema):
    """Where messages go, and about what."""

    url: Text = Field(
        max_length=2000,
        description="An http or https address. One that is not public is refused unless "
        "`HANDFUL_WEBHOOKS_TO_PRIVATE_ADDRESSES` is set.",
        examples=["https://example.org/handful"],
    )
    events: list[Event] = Field(list(Event), min_length=1, description="What it is told.")


class WebhookRead(BaseModel):
    """A webhook without its secret."""

    id: UUID
    url: str
    events: list[Event]
    gone: bool = Field(
        description="It answered with 410, or failed for four days, and is told nothing more, "
        "until a delivery is retried."
    )
    failures: int = Field(description="Attempts that failed since one arrived.")
    failing_since: datetime | None = Field(description="When the first of them was made.")
    paused_until: datetime | None = Field(
        description="It failed too often: nothing is sent until then, or until a test or a retry."
    )
    created_at: datetime


class WebhookCreated(WebhookRead):
    """A webhook with its secret, which is shown this once."""

    secret: str = Field(description="Signs messages: `whsec_` and a key in base64.")


class DeliveryRead(BaseModel):
    """A message to a webhook, and how far it came."""

    id: UUID = Field(description="Sent as `webhook-id`, the same with each attempt.")
    event: str
    body: str = Field(description="JSON, as it is sent.")
    attempts: int
    due_at: datetime | None = Field(description="When it is tried next; null: no more.")
    delivered_at: datetime | None
    status: int | None = Field(description="Of HTTP, from the last attempt.")
    error: str | None = Field(description="Of the last attempt.")
    created_at: datetime
