"""Use cases of webhooks: who is told what happens in a project."""

import base64
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.problems import AddressUnreachable, WebhookNotFound
from app.sql.conflicts import retry_conflicts
from app.sql.database import Database, seal
from app.sql.lookups import find_project, page_of
from app.sql.tables import Delivery, Webhook
from app.storage import remote
from app.webhooks.delivery import PREFIX, resume
from app.webhooks.outbox import TEST, message
from handful.contract.webhooks import Event


@dataclass(frozen=True)
class Webhooks:
    """Use cases of webhooks.

    Args:
        private: whether they may lead to addresses that are not public.
    """

    db: Database
    private: bool = False

    @retry_conflicts
    def create(self, project_key: str, url: str, events: Sequence[Event]) -> Webhook:
        """Add a webhook, with a new secret.

        Raises:
            AddressRefused: messages cannot be sent there.
        """
        with suppress(AddressUnreachable):  # it may come up later
            remote.check(url, private=self.private)
        secret = PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
        with self.db.writing() as session:
            project = find_project(session, project_key, lock=True)
            kinds = [str(event) for event in Event if event in events]
            webhook = Webhook(project_id=project.id, url=url, events=kinds, secret=secret)
            session.add(webhook)
            session.flush()
            seal(session)
            return webhook

    def page(self, project_key: str, after: UUID | None, limit: int) -> list[Webhook]:
        """The webhooks of a project, oldest first."""
        with self.db.reading() as session:
            project = find_project(session, project_key)
            query = select(Webhook).where(Webhook.project_id == project.id)
            return list(session.scalars(page_of(query, Webhook.id, after, limit)))

    def read(self, project_key: str, webhook_id: UUID) -> Webhook:
        """One webhook."""
        with self.db.reading() as session:
            return _find(session, project_key, webhook_id)

    @retry_conflicts
    def delete(self, project_key: str, webhook_id: UUID) -> None:
        """Tell a webhook no more, not even what it was not told yet."""
        with self.db.writing() as session:
            session.delete(_find(session, project_key, webhook_id, lock=True))

    @retry_conflicts
    def test(self, project_key: str, webhook_id: UUID) -> Delivery:
        """Send a message that says nothing, also when the webhook is paused."""
        with self.db.writing() as session:
            webhook = _find(session, project_key, webhook_id, lock=True)
            webhook.paused_until = None
            delivery = message(session, webhook, TEST, {})
            session.add(delivery)
            session.flush()
            return delivery

    def deliveries(
        self, project_key: str, webhook_id: UUID, after: UUID | None, limit: int
    ) -> list[Delivery]:
        """What a webhook was told or is to be told, newest first."""
        with self.db.reading() as session:
            webhook = _find(session, project_key, webhook_id)
            query = select(Delivery).where(Delivery.webhook_id == webhook.id)
            page = page_of(query, Delivery.id, after, limit, newest_first=True)
            return list(session.scalars(page))

    @retry_conflicts
    def retry(self, project_key: str, webhook_id: UUID, delivery_id: UUID) -> Delivery:
        """Send a message again now, whether it has arrived or not."""
        with self.db.writing() as session:
            webhook = _find(session, project_key, webhook_id, lock=True)
            delivery = session.get(Delivery, delivery_id)
            if delivery is None or delivery.webhook_id != webhook.id:
                raise WebhookNotFound(f"webhook {webhook_id} has no delivery {delivery_id}")
            delivery.attempts, webhook.gone = 0, False
            delivery.due_at = self.db.clock(session)
            resume(webhook)
            return delivery


def _find(session: Session, project_key: str, webhook_id: UUID, *, lock: bool = False) -> Webhook:
    """A webhook of a project.

    Args:
        lock: hold the project until commit; who is about to tell the webhook something has it too.
    """
    project = find_project(session, project_key, lock=lock)
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.project_id != project.id:
        raise WebhookNotFound(f"project {project.name!r} has no webhook {webhook_id}")
    return webhook
