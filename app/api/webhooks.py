"""Webhooks: have another service told what happens in a project."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from app.api import Cursor, Limit, ProjectKey, after, page, part, problems
from app.outbox import Event
from app.schemas import Page, Schema
from app.tables import Delivery, Webhook
from app.webhooks import Webhooks

router = APIRouter(prefix="/v1/projects/{project}/webhooks", tags=["webhooks"])

WebhookService = Annotated[Webhooks, Depends(part("webhooks"))]
WebhookKey = Annotated[UUID, Field(description="Id of the webhook.")]


class WebhookWrite(Schema):
    """Where messages go, and about what."""

    url: str = Field(
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
        description="It answered with 410 and is told nothing more, until a delivery is retried."
    )
    created_at: datetime

    @classmethod
    def of(cls, webhook: Webhook) -> "WebhookRead":
        return cls.model_validate(webhook, from_attributes=True)


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

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryRead":
        return cls.model_validate(delivery, from_attributes=True)


@router.post("", status_code=201, responses=problems(404, 422))
def create_webhook(
    project: ProjectKey, body: WebhookWrite, webhooks: WebhookService, response: Response
) -> WebhookCreated:
    """Tell an address what happens from now on, signed as standardwebhooks.com has it."""
    made = webhooks.create(project, body.url, body.events)
    response.headers["Location"] = f"/v1/projects/{made.project_id}/webhooks/{made.id}"
    return WebhookCreated.model_validate(made, from_attributes=True)


@router.get("", responses=problems(404, 422))
def list_webhooks(
    project: ProjectKey, webhooks: WebhookService, limit: Limit = 100, cursor: Cursor = None
) -> Page[WebhookRead]:
    """List webhooks, oldest first."""
    rows = webhooks.page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda webhook: webhook.id, WebhookRead.of)


@router.get("/{webhook}", responses=problems(404, 422))
def read_webhook(project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService) -> WebhookRead:
    """Read a webhook."""
    return WebhookRead.of(webhooks.read(project, webhook))


@router.delete("/{webhook}", status_code=204, responses=problems(404, 422))
def delete_webhook(project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService) -> None:
    """Delete a webhook, with what it was not told yet."""
    webhooks.delete(project, webhook)


@router.post("/{webhook}/test", status_code=202, responses=problems(404, 422))
def test_webhook(
    project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService
) -> DeliveryRead:
    """Send a message of the kind `webhook.test`; `deliveries` tells what came of it."""
    return DeliveryRead.of(webhooks.test(project, webhook))


@router.get("/{webhook}/deliveries", responses=problems(404, 422))
def list_deliveries(
    project: ProjectKey,
    webhook: WebhookKey,
    webhooks: WebhookService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[DeliveryRead]:
    """List messages, newest first; those that came to an end stay for 30 days."""
    rows = webhooks.deliveries(project, webhook, after(cursor), limit + 1)
    return page(rows, limit, lambda delivery: delivery.id, DeliveryRead.of)


@router.post(
    "/{webhook}/deliveries/{delivery}/retry", status_code=202, responses=problems(404, 422)
)
def retry_delivery(
    project: ProjectKey,
    webhook: WebhookKey,
    delivery: Annotated[UUID, Field(description="Id of the delivery.")],
    webhooks: WebhookService,
) -> DeliveryRead:
    """Send a message again now, whether it has arrived or not."""
    return DeliveryRead.of(webhooks.retry(project, webhook, delivery))
