"""Which labeled images say too much of what serves, because it learned from them."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from app.sql.head_choices import LEARNED
from app.sql.tables import Image, LearnedHead, TrainingImage

LEARNED_LABELS = "learned_labels"  # in the metrics of a learned head: ids


def count_learned_images(
    session: Session, project_id: UUID, version: UUID, head: Mapping[str, Any]
) -> int:
    """How many labeled images a version learned from, or are of labels that a head learned from.

    Args:
        head: its name and options.
    """
    seen = exists().where(TrainingImage.encoder_id == version, TrainingImage.image_id == Image.id)
    labels: list[UUID] = []
    if head["name"] == LEARNED:
        row = session.get(LearnedHead, UUID(head["options"]["learned"]))
        labels = [UUID(label) for label in row.metrics.get(LEARNED_LABELS, [])] if row else []
    query = select(func.count(Image.id)).where(
        Image.project_id == project_id,
        Image.label_id.is_not(None),
        or_(seen, Image.label_id.in_(labels)),
    )
    return session.scalar(query) or 0


def warn_of_learned(learned: int, support: int) -> str | None:
    """What a reader of an accuracy must know; None where nothing was learned from."""
    if not learned:
        return None
    return (
        f"the encoder version or the learned head that serves learned from {learned} of the "
        f"{support} labeled images, or from their labels: leave-one-out does not undo that, and "
        "new images do worse; what the job judged, on images or labels that it had not seen, is in "
        "the `metrics` of the version or head"
    )
