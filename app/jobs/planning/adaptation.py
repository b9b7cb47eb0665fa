"""Whether the encoder of a project can adapt itself by steps that it has learned."""

from functools import partial
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.encoders.versions import Versions, lineage
from app.jobs.context import JobContext
from app.jobs.planning.suitability import Suitability
from app.sql.lookups import find_project
from app.sql.tables import Image, Project
from models.encoders import Encoder
from models.finetuning import Adapter
from models.finetuning.methods.adapt import Adapt
from models.finetuning.model_selection import SHARES
from models.metalearning.adaptation import adapt, restore
from models.metalearning.cost import measure_adaptation
from models.registry import plugin_name
from models.training.cost import Cost
from models.training.recipe import Recipe

ADVICE = (
    "`metatrain` with the method `maml` or `lstm_learner` makes a version that has; let it serve "
    "the project first"
)

FOLDS = 5  # that a fine-tuning of few images has


def adaptation_suitability(versions: Versions, project_key: str, *, measured: bool) -> Suitability:
    """How the method `adapt` of a fine-tuning suits a project.

    Args:
        measured: the cost on this machine is measured.
    """
    with versions.db.reading() as session:
        project = find_project(session, project_key)
        query = select(Image.label_id, func.count()).where(Image.project_id == project.id)
        rows = session.execute(query.where(Image.label_id.is_not(None)).group_by(Image.label_id))
        shots = [row[1] for row in rows]
        refused, base = why_not_adapt(session, project), lineage(session, project.encoder_id)[-1]
    images, labels = sum(shots), sum(count >= 2 for count in shots)
    trial = None
    if measured and refused is None:
        try:
            trial = _measure(versions, base.id, images, len(shots))
        except ValueError as error:
            refused = str(error)
    return Suitability(plugin_name(Adapt), Adapt, images, labels, refused, trial)


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


def _measure(versions: Versions, base: UUID, images: int, labels: int) -> Cost | None:
    """The cost of a job with default options.

    Raises:
        ValueError: what the version has learned is lost, or for another number of labels.
    """
    document = versions.learner(base)
    if document is None:
        return None
    learner, batch_size = restore(document, versions.load(base)), Recipe().batch_size
    looks = FOLDS * (len(SHARES) - 1)
    return measure_adaptation(
        learner, max(images, 2), max(labels, 2), batch_size, runs=FOLDS, looks=looks
    )
