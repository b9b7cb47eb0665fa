"""Meta-learning: learn from labels of earlier work how to learn new ones from a handful."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import ceil
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.encoders.versions import json_options
from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.decoded_images import DecodedImages, decode_readable
from app.jobs.kinds import kinds
from app.jobs.planning.label_splits import (
    EPISODES,
    USUAL_SHAPE,
    LabelPool,
    SplitOptions,
    divide,
    find_labels,
    read_labels,
    short_of_images,
)
from app.jobs.planning.starting_point import (
    EncoderChoice,
    architecture_of,
    encoder_to_start_from,
)
from app.jobs.promotion import Promote, VersionResult
from app.jobs.training import LearningStep, Trained, speed, train_version
from app.jobs.training_data import TrainingData
from app.jobs.verdicts.new_labels import judge_on_new_labels, predictions_before
from app.plugin_fields import plugin_field, plugins_from
from app.problems import InvalidRequest, LabelsDoNotSuffice
from app.sql.lookups import find_project
from app.sql.tables import EncoderVersion, Project
from handful.contract.common import Text
from handful.contract.jobs import Figure, Progress, VerdictRead
from models.encoders import Encoder, EncoderUnavailable
from models.metalearning import LeakingNorms, require_no_leak, start
from models.metalearning.episodes import EpisodeShape
from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners import learners
from models.training.loop import Diverged, Epoch, Training
from models.training.recipe import Recipe

LearnerChoice: Any = plugin_field(learners)
METHOD = {"name": "prototypical"}
AN_EPOCH = 20  # episodes
EPISODES_FROM_RANDOM = 1000  # where the client leaves it open
RATE, RATE_FROM_RANDOM = 1e-4, 1e-3
Range = Annotated[int | tuple[int, int], Field(union_mode="left_to_right")]


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Metatrain:
    """Learn across labels how to learn new ones; judge the result on labels that it never saw."""

    method: LearnerChoice = field(default_factory=lambda: plugins_from(LearnerChoice, [METHOD])[0])
    ways: Annotated[
        Range, Field(description="Labels of an episode: a number, or the least and the most.")
    ] = USUAL_SHAPE.ways
    shots: Annotated[
        Range, Field(description="Support images of each label; judged at the least and the most.")
    ] = USUAL_SHAPE.shots
    queries: Annotated[int, Field(description="Query images of each label.")] = USUAL_SHAPE.queries
    episodes: Annotated[
        int, Field(ge=0, le=1_000_000, description="To learn from; 0: as suits the start.")
    ] = 0
    projects: Annotated[
        list[Text],
        Field(
            max_length=100,
            description="Other projects whose labels are learned from as well, by name or id; then "
            "those of the project itself judge if they have images enough and `test` names none.",
        ),
    ] = field(default_factory=list)
    validation: Annotated[
        list[Text],
        Field(
            max_length=1000,
            description="Labels that choose the best state, by name or id; empty: drawn.",
        ),
    ] = field(default_factory=list)
    test: Annotated[
        list[Text],
        Field(max_length=1000, description="Labels that judge, by name or id; empty: drawn."),
    ] = field(default_factory=list)
    separator: Annotated[
        Text,
        Field(
            max_length=10,
            description="Labels that begin alike, up to the last of this text, are drawn together, "
            "as the letters of one alphabet; empty: each on its own.",
        ),
    ] = ""
    start: Annotated[
        Literal["continue", "random"],
        Field(
            description="Weights to start from: those of the project's encoder before it learned "
            "labels, or random ones."
        ),
    ] = "continue"
    encoder: Annotated[
        EncoderChoice | None,
        Field(description="Another architecture, which then starts from random weights."),
    ] = None
    rate: Annotated[
        float, Field(ge=0, le=10, description="Learning rate at its highest; 0: as suits.")
    ] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0001
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    promote: Annotated[
        Promote,
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def __post_init__(self) -> None:
        _ = self.shape  # refuses what makes no sense

    @property
    def shape(self) -> EpisodeShape:
        """How large episodes are."""
        return EpisodeShape(ways=self.ways, shots=self.shots, queries=self.queries)

    @property
    def starts_fresh(self) -> bool:
        """Whether from random weights."""
        return self.start == "random" or self.encoder is not None

    def check(self, session: Session, project: Project) -> Checked:
        if getattr(self.encoder and self.encoder.options, "weights", None):
            raise InvalidRequest("a new encoder starts from random weights: leave `weights` out")
        others = [find_project(session, key) for key in self.projects]
        if project.id in {other.id for other in others}:
            raise InvalidRequest(
                f"`projects` names {project.name!r} itself, whose labels are learned from anyway"
            )
        # Ids from here on: what has a name may get another before the job starts.
        settled = replace(
            self,
            projects=[str(other.id) for other in others],
            validation=find_labels(session, project, self.validation),
            test=find_labels(session, project, self.test),
        )
        if both := set(settled.validation) & set(settled.test):
            raise InvalidRequest(f"{len(both)} label(s) are named by both `validation` and `test`")
        labeled, own = read_labels(session, project.id, settled.projects)
        divide(labeled, own, settled.split_options, self.shape)
        current = session.get_one(EncoderVersion, project.encoder_id)
        try:
            require_no_leak(architecture_of(self.encoder, current).build(pretrained=False))
        except (LeakingNorms, EncoderUnavailable) as error:
            raise InvalidRequest(str(error)) from error
        fingerprint = sha256(str(project.encoder_id).encode())
        for example in labeled.examples:
            fingerprint.update(example.image_id.bytes + example.label_id.bytes)
        return Checked(settled, fingerprint.hexdigest())

    @property
    def split_options(self) -> SplitOptions:
        return SplitOptions(self.validation, self.test, self.separator, self.seed)

    def run(self, context: JobContext) -> VersionResult:
        return train_version(context, self, 0)

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "MetatrainImages":
        data, own = _unpack(packed) if packed else self._read(context)
        encoder = encoder_to_start_from(
            context, data.base, self.encoder, fresh=self.starts_fresh, seed=self.seed
        )
        digests = [example.sha256 for example in data.labeled.examples]
        positions, images = decode_readable(context, digests, encoder)
        own = sum(position < own for position in positions)
        data = replace(data, labeled=data.labeled.only(positions))
        try:
            pool = divide(data.labeled, own, self.split_options, self.shape)
        except LabelsDoNotSuffice as error:
            raise JobFailed(str(error)) from error
        return MetatrainImages(data, encoder, images, pool)

    def begin(
        self,
        context: JobContext,
        material: "MetatrainImages",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "Metatrainer":
        if state is None and (short := short_of_images(material.pool, self.shape)):
            names = ", ".join(map(repr, short[:10])) + (" …" if len(short) > 10 else "")
            context.message(
                f"{len(short)} label(s) have fewer than {self.shape.images} images and are left "
                f"out: {names}",
                labels=short[:100],
            )
        fresh = self.starts_fresh
        episodes = self.episodes or (EPISODES_FROM_RANDOM if fresh else EPISODES)
        epochs = ceil(episodes / AN_EPOCH)
        training = start(
            self.method.options,
            material.encoder,
            material.images,
            material.data.labeled.targets,
            material.pool.split,
            self.shape,
            Recipe(
                epochs=epochs,
                rate=self.rate or (RATE_FROM_RANDOM if fresh else RATE),
                weight_decay=self.weight_decay,
                schedule="cosine",
                seed=self.seed,
            ),
            episodes_an_epoch=ceil(episodes / epochs),
            fresh=fresh,
        )
        if state is not None:
            training.load(state)
        return Metatrainer(self.method.name, training)

    def judge(
        self, context: JobContext, material: "MetatrainImages", learner: "Metatrainer"
    ) -> Trained:
        """Beside the version and head that serve now, and the frozen encoder, on new labels."""
        data, pool = material.data, material.pool
        base = context.through_outages(lambda: context.versions.load(data.base))
        verdict = judge_on_new_labels(
            context, data, pool, self.shape, learner.encoder, base, seed=self.seed
        )
        return Trained(
            learner.encoder,
            MetatrainVerdict(**dict(verdict), labels=LabelNames.of(pool)),
            architecture=self.encoder and (self.encoder.name, json_options(self.encoder.options)),
            predicted=predictions_before(context, data, pool, base),
        )

    def _read(self, context: JobContext) -> tuple[TrainingData, int]:
        def read() -> tuple[TrainingData, int]:
            with context.db.reading() as session:
                project = session.get_one(Project, context.project_id)
                labeled, own = read_labels(session, project.id, self.projects)
                champion, head = project.encoder_id, project.head
            return TrainingData(labeled, champion, context.versions.base(champion), head), own

        return context.through_outages(read)


class MetatrainImages(NamedTuple):
    """Labeled images of a project and of others, ready to be learned from."""

    data: TrainingData
    encoder: Encoder  # to start from
    images: DecodedImages
    pool: LabelPool

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**self.data.pack(), "own": self.pool.own}


class MetatrainProgress(Progress):
    """An epoch of episodes."""

    method: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    rates: dict[str, float]
    images_per_s: float


class LabelNames(BaseModel):
    """What each label was there for; labels of another project are `project/label`."""

    train: list[str]
    validation: list[str]
    test: list[str]

    @classmethod
    def of(cls, pool: LabelPool) -> "LabelNames":
        """By the names that labels had."""
        names = pool.labeled.names
        train, validation, test = ([names[n] for n in part] for part in pool.split)
        return cls(train=train, validation=validation, test=test)


class MetatrainVerdict(VerdictRead):
    """How the candidate did with labels that it never saw."""

    labels: LabelNames


@dataclass(frozen=True)
class Metatrainer:
    """Tells the epochs of a training."""

    method: str
    training: Training

    @property
    def encoder(self) -> Encoder:
        """As it was when it did best."""
        self.training.restore_best()
        encoder: Encoder = self.training.objective.encoder
        return encoder.eval()

    def steps(self) -> Iterator[LearningStep]:
        try:
            for epoch in self.training:
                progress = _progress(self.method, epoch)
                yield LearningStep(progress, epoch.seconds, epoch.of - epoch.number)
        except InnerLoopDiverged as error:
            raise JobFailed(str(error)) from error
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error

    def state(self) -> dict[str, Any]:
        return self.training.state()


def _unpack(packed: dict[str, Any]) -> tuple[TrainingData, int]:
    return TrainingData.unpack(packed), packed["own"]


def _progress(method: str, epoch: Epoch) -> MetatrainProgress:
    figures = [Figure(name="loss", value=epoch.loss)]
    if epoch.accuracy is not None:
        name = "accuracy on labels it did not learn"
        figures.append(Figure(name=name, value=epoch.accuracy, unit="share"))
    return MetatrainProgress(
        stage="meta-training",
        share=epoch.number / epoch.of,
        title=method,
        figures=figures,
        method=method,
        epoch=epoch.number,
        epochs=epoch.of,
        loss=epoch.loss,
        accuracy=epoch.accuracy,
        rates=epoch.rates,
        images_per_s=speed(epoch.images, epoch.seconds),
    )
