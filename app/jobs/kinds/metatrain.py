"""Meta-learning: learn from labels of earlier work how to learn new ones from a handful."""

from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from math import ceil
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from sqlalchemy.orm import Session
from torch import Tensor

from app.encoders.versions import json_options
from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.decoded_images import DecodedImages, decode_readable
from app.jobs.head_training import HeadResult, TrainedHead, embeddings_of, train_head
from app.jobs.kinds import kinds
from app.jobs.metatraining.metatrainer import Metatrainer
from app.jobs.planning.label_splits import (
    EPISODES,
    EPISODES_OF_HEADS,
    USUAL_SHAPE,
    LabelPool,
    SplitOptions,
    divide,
    find_parts,
    pack_training_data,
    read_labels,
    read_training_data,
    tell_left_out,
)
from app.jobs.planning.memory import require_memory_here, require_memory_of
from app.jobs.planning.starting_point import (
    EncoderChoice,
    architecture_of,
    encoder_to_start_from,
)
from app.jobs.promotion import Promote, VersionResult
from app.jobs.training import Trained, train_version
from app.jobs.training_data import TrainingData
from app.jobs.verdicts.new_labels import (
    Answers,
    NewLabels,
    judge_head_on_new_labels,
    judge_on_new_labels,
    predictions_before,
)
from app.plugin_fields import plugin_field, plugins_from
from app.problems import InvalidRequest, LabelsDoNotSuffice
from app.sql.lookups import find_project
from app.sql.tables import EncoderVersion, Project
from handful.contract.common import Text
from models.encoders import Encoder, EncoderUnavailable
from models.finetuning import embed_all
from models.heads import center_and_normalize
from models.heads.network import NetworkHead
from models.metalearning import Episodic, LeakingNorms, require_no_leak, require_suited, start
from models.metalearning.adaptation import learned_beside
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.heads import HeadMethod, HeadObjective, start_head
from models.metalearning.learners import learners
from models.training.loop import Training
from models.training.memory import memory_of
from models.training.recipe import Recipe

LearnerChoice: Any = plugin_field(learners)
METHOD = {"name": "prototypical"}
AN_EPOCH = 20  # episodes
EPISODES_FROM_RANDOM = 1000  # where the client leaves it open
RATE, RATE_FROM_RANDOM = 1e-4, 1e-3
AN_EPOCH_OF_HEADS, RATE_OF_HEADS = 100, 1e-3
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
    folds: Annotated[
        int,
        Field(
            ge=0,
            le=20,
            description="With few labels: so many trainings, each judged with other labels, until "
            "each has judged once; then one more on all labels, which serves. 0: a part judges.",
        ),
    ] = 0
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
        require_suited(self.method.options, self.shape)

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
        if isinstance(self.method.options, HeadMethod) and self.starts_fresh:
            raise InvalidRequest(
                f"{self.method.name!r} learns a head and leaves the encoder as it is: leave "
                "`encoder` out, and `start` as it is"
            )
        if self.folds and (self.validation or self.test):
            raise InvalidRequest("in `folds` each label judges once: name none to do so")
        others = [find_project(session, key) for key in self.projects]
        if project.id in {other.id for other in others}:
            raise InvalidRequest(
                f"`projects` names {project.name!r} itself, whose labels are learned from anyway"
            )
        # Ids from here on: what has a name may get another before the job starts.
        settled = replace(
            self,
            projects=[str(other.id) for other in others],
            **find_parts(session, project, validation=self.validation, test=self.test),
        )
        labeled, own = read_labels(session, project.id, settled.projects)
        pool = divide(labeled, own, settled.split_options, self.shape)
        if not isinstance(self.method.options, HeadMethod):
            current = session.get_one(EncoderVersion, project.encoder_id)
            try:
                encoder = architecture_of(self.encoder, current).build(pretrained=False)
                require_no_leak(encoder)
            except (LeakingNorms, EncoderUnavailable) as error:
                raise InvalidRequest(str(error)) from error
            drawn = self.shape.among(len(pool.split.train))
            require_memory_here(self.method.options, encoder, drawn, fresh=self.starts_fresh)
        fingerprint = sha256(str(project.encoder_id).encode())
        for example in labeled.examples:
            fingerprint.update(example.image_id.bytes + example.label_id.bytes)
        return Checked(settled, fingerprint.hexdigest())

    @property
    def split_options(self) -> SplitOptions:
        return SplitOptions(self.validation, self.test, self.separator, self.seed, self.folds)

    def run(self, context: JobContext) -> VersionResult | HeadResult:
        if isinstance(self.method.options, HeadMethod):
            return train_head(context, MetatrainedHead(self, self.method.options), self.promote)
        return train_version(context, self, 0)

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "MetatrainImages":
        data, own = read_training_data(context, packed, self.projects)
        encoder = encoder_to_start_from(
            context, data.base, self.encoder, fresh=self.starts_fresh, seed=self.seed
        )
        digests = [example.sha256 for example in data.labeled.examples]
        positions, images = decode_readable(context, digests, encoder)
        own = sum(position < own for position in positions)
        data = replace(data, labeled=data.labeled.only(positions))
        return MetatrainImages(data, encoder, images, self.divide(data, own))

    def begin(
        self,
        context: JobContext,
        material: "MetatrainImages",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> Metatrainer:
        if state is None:
            tell_left_out(context, material.pool, self.shape)
        fresh, method = self.starts_fresh, self.method.options
        require_memory_of(
            memory_of(context.versions.device),
            method,
            material.encoder,
            self.shape.among(len(material.pool.split.train)),
            fresh=fresh,
        )
        episodes = self.episodes or (EPISODES_FROM_RANDOM if fresh else EPISODES)
        epochs = ceil(episodes / AN_EPOCH)
        new_labels = self.new_labels(material.pool)

        def begin(split: LabelSplit) -> Training:
            return start(
                method,
                material.encoder,
                material.images,
                material.data.labeled.targets,
                split,
                self.shape,
                self.recipe(epochs, RATE_FROM_RANDOM if fresh else RATE),
                episodes_an_epoch=ceil(episodes / epochs),
                fresh=fresh,
            )

        def judge(fold: int, objective: Episodic) -> Answers:
            images = material.images.only(new_labels.positions_of(fold))
            embeddings = embed_all(objective.encoder, images)
            return new_labels.answers_of(fold, material.data.head, embeddings)

        return Metatrainer(self.method.name, material.pool.runs, begin, judge, state)

    def judge(
        self, context: JobContext, material: "MetatrainImages", learner: Metatrainer
    ) -> Trained:
        """Beside the version and head that serve now, and the frozen encoder, on new labels."""
        data, pool = material.data, material.pool
        base = context.through_outages(lambda: context.versions.load(data.base))
        new_labels = self.new_labels(pool)
        verdict = judge_on_new_labels(context, data, new_labels, learner.answers, base)
        return Trained(
            learner.objective.encoder,
            verdict,
            architecture=self.encoder and (self.encoder.name, json_options(self.encoder.options)),
            learner=learned_beside(self.method.options, learner.training.objective),
            predicted=predictions_before(context, data, pool, base),
        )

    def new_labels(self, pool: LabelPool) -> NewLabels:
        """Episodes to judge with."""
        return NewLabels(pool, self.shape, seed=self.seed)

    def recipe(self, epochs: int, usual_rate: float) -> Recipe:
        """How to train."""
        return Recipe(
            epochs=epochs,
            rate=self.rate or usual_rate,
            weight_decay=self.weight_decay,
            schedule="cosine",
            seed=self.seed,
        )

    def divide(self, data: TrainingData, own: int) -> LabelPool:
        """What each label is there for, among those with readable images."""
        try:
            return divide(data.labeled, own, self.split_options, self.shape)
        except LabelsDoNotSuffice as error:
            raise JobFailed(str(error)) from error


@dataclass(frozen=True)
class MetatrainedHead:
    """The same for a head, on embeddings of the version that serves, which stay as they are."""

    options: Metatrain
    method: HeadMethod

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "MetatrainEmbeddings":
        data, own = read_training_data(context, packed, self.options.projects)
        positions, embeddings = embeddings_of(context, data.champion, data.labeled.examples)
        own = sum(position < own for position in positions)
        data = replace(data, labeled=data.labeled.only(positions))
        return MetatrainEmbeddings(data, embeddings, self.options.divide(data, own))

    def begin(
        self,
        context: JobContext,
        material: "MetatrainEmbeddings",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> Metatrainer:
        options = self.options
        if state is None:
            tell_left_out(context, material.pool, options.shape)
        episodes = options.episodes or EPISODES_OF_HEADS
        epochs = ceil(episodes / AN_EPOCH_OF_HEADS)
        new_labels = options.new_labels(material.pool)
        embeddings = material.embeddings

        def begin(split: LabelSplit) -> Training:
            return start_head(
                self.method,
                center_and_normalize(embeddings, embeddings.mean(dim=0)),
                material.data.labeled.targets,
                split,
                options.shape,
                options.recipe(epochs, RATE_OF_HEADS),
                episodes_an_epoch=ceil(episodes / epochs),
            )

        def judge(fold: int, objective: HeadObjective) -> Answers:
            head = NetworkHead(network=objective.network)
            return new_labels.answers_of(fold, head, embeddings[new_labels.positions_of(fold)])

        return Metatrainer(options.method.name, material.pool.runs, begin, judge, state)

    def judge(
        self, context: JobContext, material: "MetatrainEmbeddings", learner: Metatrainer
    ) -> TrainedHead:
        """Beside the version and head that serve now, and the frozen encoder, on new labels."""
        new_labels = self.options.new_labels(material.pool)
        embeddings = material.embeddings[new_labels.positions]
        verdict = judge_head_on_new_labels(
            context, material.data, new_labels, learner.answers, embeddings
        )
        return TrainedHead(
            learner.objective.network,
            self.options.method.name,
            asdict(self.method),  # type: ignore[call-overload]
            verdict,
            material.pool.learned_labels,
        )


class MetatrainImages(NamedTuple):
    """Labeled images of a project and of others, ready to be learned from."""

    data: TrainingData
    encoder: Encoder  # to start from
    images: DecodedImages
    pool: LabelPool

    def pack(self) -> dict[str, Any]:
        return pack_training_data(self.data, self.pool)


class MetatrainEmbeddings(NamedTuple):
    """Embedded images with labels, ready to learn a head from."""

    data: TrainingData
    embeddings: Tensor  # (M, D) by the version that serves
    pool: LabelPool

    def pack(self) -> dict[str, Any]:
        return pack_training_data(self.data, self.pool)
