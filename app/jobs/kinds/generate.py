"""Generation: learn where the rest of a class lies, and move centroids there, if that helps."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from sqlalchemy.orm import Session
from torch import Tensor

from app.encoders.learned_heads import MOVED
from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.generation.pictures import nearest_sheet
from app.jobs.generation.suitability import require_groups, require_memory_for_samples
from app.jobs.generation.verdicts import GenerationVerdict, judge_choices
from app.jobs.head_training import HeadResult, TrainedHead, embeddings_of, train_head
from app.jobs.kinds import kinds
from app.jobs.promotion import Promote
from app.jobs.training import LearningStep, RunProgress, Sheet, speed
from app.jobs.training_data import TrainingData, gather
from app.jobs.verdicts import champion_head
from app.plugin_fields import plugin_field, plugins_from
from app.sql.tables import Project
from app.vectors.matrices import Vectors
from handful.contract.jobs import Figure
from models.generation import FEWEST, TooFewGroups
from models.generation.choice import Choice, Generation, GenerationEpoch, Trial, trials
from models.generation.generators import generators
from models.generation.generators.cvae import GeneratedMean
from models.heads import center_and_normalize
from models.training.loop import Diverged

GroupsChoice: Any = plugin_field(generators)
GROUPS = [{"name": name} for name in ("nearest", "clusters", "gaussian", "cvae")]


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Generate:
    """Learn from labels and clusters of the pool where the rest of a class lies, given a handful.

    What comes out is a head: `blend`, whose centroids are moved there by a weight that held-out
    images choose for each number of shots; 0 where that is not ahead of what moves nothing.
    """

    family: ClassVar[str] = "generation"
    fewest: ClassVar[int] = 2 * FEWEST  # images
    unsuited: ClassVar[str] = "labels with 20 images and more, which `blend` tells apart as well"

    groups: Annotated[
        list[GroupsChoice],
        Field(
            min_length=1,
            max_length=8,
            description="What may move centroids, the plainest first; held-out images choose.",
        ),
    ] = field(default_factory=lambda: plugins_from(GroupsChoice, GROUPS))
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    promote: Annotated[
        Promote,
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def __post_init__(self) -> None:
        names = [choice.name for choice in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"groups must be named once each, got {names}")

    def check(self, session: Session, project: Project) -> Checked:
        require_groups(session, project)
        for choice in self.groups:
            require_memory_for_samples(choice.options)
        fingerprint = f"{project.encoder_id} {project.revision} {project.head}"
        return Checked(self, sha256(fingerprint.encode()).hexdigest())

    def run(self, context: JobContext) -> HeadResult:
        return train_head(context, self, self.promote)

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "Grouped":
        data = gather(context, packed and packed["data"])
        positions, labeled = (
            embeddings_of(context, data.champion, data.labeled.examples)
            if data.labeled.examples
            else ([], torch.empty(0, 0))
        )
        data = TrainingData(
            data.labeled.only(positions), data.champion, data.base, data.head_choice
        )
        read = Vectors(context.db, 0).everything
        everything = context.through_outages(lambda: read(context.project_id, data.champion))
        rows = everything.rows(labeled=False)
        pool = everything.vectors[rows].float()
        return Grouped(
            data,
            labeled if len(labeled) else pool[:0],
            pool,
            [everything.image_id(row) for row in rows.tolist()],
            sha256(everything.ids[rows].tobytes() + pool.numpy().tobytes()).hexdigest(),
        )

    def begin(
        self,
        context: JobContext,
        material: "Grouped",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "GroupLearner":
        try:
            found = material.trials(self.seed)
        except TooFewGroups as error:
            raise JobFailed(str(error)) from error
        for choice in self.groups:
            require_memory_for_samples(choice.options)
        rivals = {"champion": champion_head(context, material.data)}
        named = {choice.name: choice.options for choice in self.groups}
        generation = Generation(named, found, rivals, self.seed)
        if state is not None:
            generation.load(state)
        return GroupLearner(context, material, generation)

    def judge(
        self, context: JobContext, material: "Grouped", learner: "GroupLearner"
    ) -> TrainedHead:
        """Beside what moves nothing and what serves, in tasks of held-out images."""
        options, mover = learner.generation.mover(learner.choices)
        for message in learner.warnings():
            context.message(message)
        verdict: GenerationVerdict = judge_choices(learner.choices, material.images)
        return TrainedHead(mover, MOVED, asdict(options), verdict, material.data.labeled.labels)


class Grouped(NamedTuple):
    """What is learned from: labels and the pool of a project, as a version embeds them."""

    data: TrainingData
    labeled: Tensor  # (M, D)
    pool: Tensor  # (N, D)
    pool_ids: list[Any]
    digest: str  # of the pool

    @property
    def images(self) -> int:
        return len(self.labeled) + len(self.pool)

    @property
    def normalized(self) -> tuple[Tensor, Tensor]:
        """Labeled images and pool, as heads see them."""
        both = torch.cat([self.labeled, self.pool])
        normalized = center_and_normalize(both, both.mean(dim=0))
        return normalized[: len(self.labeled)], normalized[len(self.labeled) :]

    def trials(self, seed: int) -> list[Trial]:
        """What to learn by, one after the other."""
        labeled, pool = self.normalized
        targets = self.data.labeled.targets if len(labeled) else torch.empty(0, dtype=torch.long)
        return trials(labeled, targets, pool, seed=seed)

    def pack(self) -> dict[str, Any]:
        return {"data": self.data.pack(), "pool": self.digest}


class GenerateProgress(RunProgress):
    """An epoch of one kind of groups, in one of several trials."""

    method: str
    trial: str


class GroupLearner:
    """Tells each epoch, and shows at last what is nearest to what was generated."""

    def __init__(self, context: JobContext, material: Grouped, generation: Generation) -> None:
        self._context, self._material, self.generation = context, material, generation
        self._chosen: list[Choice] | None = None

    @property
    def choices(self) -> list[Choice]:
        """What serves at each number of shots."""
        if self._chosen is None:
            self._chosen = self.generation.choices()
        return self._chosen

    def warnings(self) -> Iterator[str]:
        """What a person should know of what was learned."""
        for target in self.generation.targets.values():
            if isinstance(target, GeneratedMean):
                used = target.used_latents(self.generation.groups)
                if not used:
                    yield (
                        "posterior collapse: none of the latent numbers tells members of a group "
                        "apart, so that what is generated is one embedding for each class, as by a "
                        "regression; a lower `beta` or `noise` would use them"
                    )

    def steps(self) -> Iterator[LearningStep]:
        try:
            for step in self.generation:
                yield _step(step)
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error
        yield self._shown()

    def state(self) -> dict[str, Any]:
        return self.generation.state()

    def _shown(self) -> LearningStep:
        weights = {choice.shots: choice.weight for choice in self.choices}
        progress = GenerateProgress(
            stage="weights",
            share=1.0,
            title="weights",
            figures=[
                Figure(name=f"weight at {shots} shot{'s' if shots > 1 else ''}", value=weight)
                for shots, weight in weights.items()
            ],
            run=1,
            runs=1,
            fold=None,
            method="weights",
            trial="all",
            epoch=1,
            epochs=1,
            loss=0.0,
            images_per_s=0.0,
        )
        sheet = self._sheet()
        return LearningStep(progress, 0.0, 0, sheet=sheet)

    def _sheet(self) -> Sheet | None:
        """The images of the pool nearest to what was generated for some classes."""
        target = next(reversed(self.generation.targets.values()))
        return nearest_sheet(
            self._context,
            self._material.data.champion,
            self.generation.groups,
            target,
            self._material.normalized[1],
            self._material.pool_ids,
        )


def _step(step: GenerationEpoch) -> LearningStep:
    epoch = step.epoch
    share = (step.run - 1 + epoch.number / epoch.of) / step.runs
    progress = GenerateProgress(
        stage="generation",
        share=0.99 * share,
        title=f"{step.kind}, {step.trial}",
        figures=[Figure(name="loss", value=epoch.loss)],
        run=step.run,
        runs=step.runs,
        fold=step.run if step.run < step.runs else None,
        method=step.kind,
        trial=step.trial,
        epoch=epoch.number,
        epochs=epoch.of,
        loss=epoch.loss,
        images_per_s=speed(epoch.images, epoch.seconds),
    )
    remaining = (step.runs - step.run + 1) * epoch.of - epoch.number
    return LearningStep(progress, epoch.seconds, remaining)
