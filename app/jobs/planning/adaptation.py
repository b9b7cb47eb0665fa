"""Whether the encoder of a project can adapt itself by steps that it has learned."""

from functools import partial
from uuid import UUID

from sqlalchemy.orm import Session

from app.encoders.versions import lineage
from app.jobs.context import JobContext
from app.sql.tables import Project
from models.encoders import Encoder
from models.finetuning import Adapter
from models.metalearning.adaptation import adapt, restore

ADVICE = (
    "`metatrain` with the method `maml` (`inner` `all` or `last_stage`) or `lstm_learner` "
    "(`learner` `network`) makes a version that has; let it serve the project first"
)


def why_not_adapt(session: Session, project: Project) -> str | None:
    """Why no fine-tuning of a project can take learned steps; None: it can.

    Like every fine-tuning they start from the version that has learned none of its labels.
    """
    *learned, base = lineage(session, project.encoder_id)
    if base.learner is not None:
        return None
    for version in learned:
        if version.learner is not None:
            return (
                f"version {version.id} has learned steps, but from labels of this project as well, "
                "on which nothing that starts from it can be judged; meta-train from labels of "
                "other projects (`projects`)"
            )
    return f"the project's encoder has learned no steps by which it could adapt: {ADVICE}"


def adapter_of(context: JobContext, base: UUID, encoder: Encoder) -> Adapter | None:
    """Begins to adapt the encoder of a version by the steps that it has learned; None: it has none.

    Raises:
        ValueError: they are lost, or do not fit.
    """
    document = context.through_outages(lambda: context.versions.learner(base))
    return None if document is None else partial(adapt, restore(document, encoder))
