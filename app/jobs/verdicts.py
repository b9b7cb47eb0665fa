"""How a version is judged: beside what it would replace, on images that neither ever saw."""

from typing import Any
from uuid import UUID

from jaxtyping import Float, Int
from sqlalchemy import select
from torch import Tensor

from app.jobs.training_data import Labeled
from app.sql.database import Database
from app.sql.tables import TrainingImage
from models.evaluation.comparison import Verdict


def correctness(predicted: Int[Tensor, "R M"], targets: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """How often each image was classified right, 0..1, over the repetitions."""
    return (predicted == targets).float().mean(dim=0)


def out_of_fold_correctness(
    db: Database, version: UUID, labeled: Labeled, right: Float[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """How often a version is right on images that it, or models like it, never saw.

    What it learned from is judged by the predictions of its own cross-validation, kept when it was
    made; what was labeled since, by the version itself.

    Args:
        right: by the version itself, on all images.
    """
    judged = right.clone()
    with db.reading() as session:
        query = select(TrainingImage).where(TrainingImage.encoder_id == version)
        seen = {image.image_id: image for image in session.scalars(query)}
    for n, example in enumerate(labeled.examples):
        image = seen.get(example.image_id)
        if image is not None and image.predicted:
            hits = sum(label == str(example.label_id) for label in image.predicted)
            judged[n] = hits / len(image.predicted)
    return judged


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON data."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in verdict._asdict().items()}
