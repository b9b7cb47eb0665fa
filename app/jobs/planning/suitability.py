"""Methods that learn for later labels, before one is started: what they need and what they cost."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from app.inference.embedder import Embedder
from app.jobs.planning.label_splits import EPISODES, EPISODES_OF_HEADS, USUAL_SHAPE
from app.jobs.planning.memory import require_memory_here
from app.problems import NotEnoughMemory
from app.sql.database import Database
from app.sql.lookups import find_project
from app.sql.tables import Image
from models.finetuning.methods.adapt import Adapt
from models.metalearning import LeakingNorms, MetaMethod, require_no_leak
from models.metalearning.cost import measure_episodes, measure_head_episodes
from models.metalearning.heads import HeadMethod
from models.metalearning.learners import learners
from models.pretraining import PretrainingMethod, Unsuited
from models.pretraining.cost import measure_cost
from models.pretraining.methods import methods
from models.training.cost import Cost
from models.training.recipe import Recipe


class Suitability(NamedTuple):
    """A method, and how it suits a project."""

    name: str
    method: type[PretrainingMethod] | type[MetaMethod] | type[HeadMethod] | type[Adapt]
    images: int  # that the project has
    labels: int  # that have images enough for an episode
    refused: str | None  # why it cannot work with the project's encoder
    trial: Cost | None


def suitabilities(
    db: Database, embedder: Embedder, project_key: str, recipe: Recipe, *, measured: Sequence[str]
) -> list[Suitability]:
    """All methods, and how they suit a project.

    Args:
        recipe: of a pretraining.
        measured: the methods of which the cost on this machine is measured.
    """
    with db.reading() as session:
        project = find_project(session, project_key)
        query = select(Image.label_id, func.count()).where(Image.project_id == project.id)
        shots = {row[0]: row[1] for row in session.execute(query.group_by(Image.label_id))}
        version = project.encoder_id
    encoder, images = embedder.encoder(version), sum(shots.values())
    labels = sum(n >= USUAL_SHAPE.images for label, n in shots.items() if label is not None)

    def pretraining(method: type[PretrainingMethod], is_measured: bool) -> Cost | None:
        method().build(encoder, max(images, 2))
        if not is_measured:
            return None
        return measure_cost(method(), encoder, recipe, max(images, recipe.batch_size))

    def metatraining(method: type[MetaMethod] | type[HeadMethod], is_measured: bool) -> Cost | None:
        options = method()
        if isinstance(options, HeadMethod):
            if not is_measured:
                return None
            labeled = images - shots.get(None, 0)
            return measure_head_episodes(
                options, encoder.embedding_dim, USUAL_SHAPE, EPISODES_OF_HEADS, labeled
            )
        require_no_leak(encoder)
        if not is_measured:
            return None
        require_memory_here(options, encoder, USUAL_SHAPE, fresh=False)
        return measure_episodes(options, encoder, USUAL_SHAPE, EPISODES)

    def tried(
        name: str, method: type, try_method: Callable[[type, bool], Cost | None]
    ) -> Suitability:
        refused, trial = None, None
        try:
            trial = try_method(method, name in measured)
        except (Unsuited, LeakingNorms, NotEnoughMemory) as error:
            refused = str(error)
        return Suitability(name, method, images, labels, refused, trial)

    return [
        *(tried(name, method, pretraining) for name, method in methods.items()),
        *(tried(name, method, metatraining) for name, method in learners.items()),
    ]
