"""Webhooks: have another service told what happens in a project."""

from typing import Annotated
from uuid import UUID

from fastapi import Response
from pydantic import Field

from app.api import resource_router
from app.api.answers import page
from app.api.parts import WebhookService
from app.http.openapi import problem_responses
from app.http.parameters import Cursor, Limit, ProjectKey, after
from app.sql.tables import Delivery, Webhook
from handful.contract.common import Page
from handful.contract.webhooks import DeliveryRead, WebhookCreated, WebhookRead, WebhookWrite

router = resource_router("/v1/projects/{project}/webhooks", tags=["webhooks"])
WebhookKey = Annotated[UUID, Field(description="Id of the webhook.")]


def show_webhook(webhook: Webhook) -> WebhookRead:
    """A webhook without its secret, which only its making tells."""
    return WebhookRead.model_validate(webhook, from_attributes=True)


def show_delivery(delivery: Delivery) -> DeliveryRead:
    """A message to a webhook, and what came of it."""
    return DeliveryRead.model_validate(delivery, from_attributes=True)


@router.post("", status_code=201, responses=problem_responses(404, 422))
def create_webhook(
    project: ProjectKey, body: WebhookWrite, webhooks: WebhookService, response: Response
) -> WebhookCreated:
    """Tell an address what happens from now on, signed as standardwebhooks.com has it."""
    webhook = webhooks.create(project, body.url, body.events)
    response.headers["Location"] = f"/v1/projects/{webhook.project_id}/webhooks/{webhook.id}"
    return WebhookCreated.model_validate(webhook, from_attributes=True)


@router.get("", responses=problem_responses(404, 422))
def list_webhooks(
    project: ProjectKey, webhooks: WebhookService, limit: Limit = 100, cursor: Cursor = None
) -> Page[WebhookRead]:
    """List webhooks, oldest first."""
    rows = webhooks.page(project, after(cursor), limit + 1)
    return page(rows, limit, lambda webhook: webhook.id, show_webhook)


@router.get("/{webhook}", responses=problem_responses(404, 422))
def read_webhook(project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService) -> WebhookRead:
    """Read a webhook."""
    return show_webhook(webhooks.read(project, webhook))


@router.delete("/{webhook}", status_code=204, responses=problem_responses(404, 422))
def delete_webhook(project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService) -> None:
    """Delete a webhook, with what it was not told yet."""
    webhooks.delete(project, webhook)


@router.post("/{webhook}/test", status_code=202, responses=problem_responses(404, 422))
def test_webhook(
    project: ProjectKey, webhook: WebhookKey, webhooks: WebhookService
) -> DeliveryRead:
    """Send a message of the kind `webhook.test`; `deliveries` tells what came of it."""
    return show_delivery(webhooks.test(project, webhook))


@router.get("/{webhook}/deliveries", responses=problem_responses(404, 422))
def list_deliveries(
    project: ProjectKey,
    webhook: WebhookKey,
    webhooks: WebhookService,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[DeliveryRead]:
    """List messages, newest first; those that came to an end stay for 30 days."""
    rows = webhooks.deliveries(project, webhook, after(cursor), limit + 1)
    return page(rows, limit, lambda delivery: delivery.id, show_delivery)


@router.post(
    "/{webhook}/deliveries/{delivery}/retry", status_code=202, responses=problem_responses(404, 422)
)
def retry_delivery(
    project: ProjectKey,
    webhook: WebhookKey,
    delivery: Annotated[UUID, Field(description="Id of the delivery.")],
    webhooks: WebhookService,
) -> DeliveryRead:
    """Send a message again now, whether it has arrived or not."""
    return show_delivery(webhooks.retry(project, webhook, delivery))
