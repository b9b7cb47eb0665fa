"""What webhooks are to be told, written down in the transaction in which it happens.

So nothing is told that was rolled back, and nothing is forgotten when the process ends.
"""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.sql.clock import clock
from app.sql.tables import Delivery, Image, Webhook, now
from handful.contract.webhooks import Event

TEST = "webhook.test"  # what every webhook is told when somebody asks for it


def tell(session: Session, project_id: UUID, event: Event, data: dict[str, Any]) -> None:
    """Have an event delivered to the webhooks of a project that want it, once this is committed."""
    for webhook in _listening(session, project_id, event):
        session.add(message(session, webhook, event, data))


def tell_if_exhausted(session: Session, project_id: UUID) -> None:
    """Tell that every image of a project has a label, if that is so."""
    if not _listening(session, project_id, Event.POOL_EXHAUSTED):
        return
    unlabeled = exists().where(Image.project_id == project_id, Image.label_id.is_(None))
    if not session.scalar(select(unlabeled)):
        tell(session, project_id, Event.POOL_EXHAUSTED, {})


def message(session: Session, webhook: Webhook, event: str, data: dict[str, Any]) -> Delivery:
    """A message that is not sent yet."""
    moment = clock(session)
    body = {
        "type": event,
        "timestamp": now().isoformat(),
        "data": {"project": str(webhook.project_id)} | data,
    }
    return Delivery(
        webhook_id=webhook.id,
        event=event,
        body=json.dumps(body),
        due_at=moment,
        created_at=moment,
    )


def _listening(session: Session, project_id: UUID, event: Event) -> list[Webhook]:
    webhooks: dict[UUID, list[Webhook]] = session.info.setdefault(
        "webhooks", {}
    )  # of a transaction
    if project_id not in webhooks:
        query = select(Webhook).where(Webhook.project_id == project_id, Webhook.gone.is_(False))
        # They stay until what they are told is written: not everybody who tells has the project.
        held = query.order_by(Webhook.id).with_for_update(read=True, key_share=True)
        webhooks[project_id] = list(session.scalars(held))
    return [webhook for webhook in webhooks[project_id] if event in webhook.events]
