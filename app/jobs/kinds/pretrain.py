"""Pretraining: the encoder learns from all images of a project, with labels or without."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.encoders.versions import json_options
from app.jobs.context import Checked, JobContext, JobFailed
from app.jobs.decoded_images import DecodedImages, decode_readable
from app.jobs.kinds import kinds
from app.jobs.planning.starting_point import (
    EncoderChoice,
    architecture_of,
    encoder_to_start_from,
)
from app.jobs.promotion import Promote, VersionResult
from app.jobs.training import LearningStep, Sheet, Trained, speed, train_version
from app.jobs.training_data import TrainingData, gather
from app.jobs.verdicts import correctness, judge_beside, unjudged
from app.plugin_fields import plugin_field, plugins_from
from app.problems import InvalidRequest, TooFewImages
from app.sql.tables import EncoderVersion, Image, Project
from handful.contract.jobs import Figure, Progress, VerdictRead
from models.augmentation.contact_sheet import contact_sheet
from models.embeddings.representation import effective_rank, feature_std, nearest_accuracy
from models.encoders import Encoder, EncoderUnavailable
from models.evaluation.folds import predict, stratified_folds
from models.finetuning import embed_all
from models.heads import Head
from models.pretraining import Collapsed, Pretext, Unsuited, start
from models.pretraining.methods import methods
from models.training.loop import Diverged, Epoch, Training, as_values
from models.training.recipe import Recipe

PretextChoice: Any = plugin_field(methods)
METHOD = {"name": "simclr"}
FEW = 5000  # images, below which a pretrained encoder is a better start than chance
NEIGHBOURS_NEED = 3  # images of a label, for kNN accuracy
WATCHED = 1000  # images at most that are embedded after each epoch, to see how it goes
JUDGED_FOLDS, JUDGED_REPEATS = 5, 3
SHEETS = 5  # pictures of what a method makes of images, where that can be seen, in all epochs
SHOWN, SHOWN_SIDE = 3, 64  # images on a sheet, and pixels of each


@kinds.register
@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Let the encoder learn from all images of the project, without labels.

    Labels, where there are any, only judge the result.
    """

    method: PretextChoice = field(default_factory=lambda: plugins_from(PretextChoice, [METHOD])[0])
    start: Annotated[
        Literal["auto", "continue", "random"],
        Field(
            description="Weights to start from: those of the project's encoder before it learned "
            f"labels, or random ones; auto: random ones from {FEW} images on."
        ),
    ] = "auto"
    encoder: Annotated[
        EncoderChoice | None,
        Field(description="Another architecture, which then starts from random weights."),
    ] = None
    epochs: Annotated[
        int, Field(ge=0, le=100_000, description="Passes; 0: as suits the number of images.")
    ] = 0
    batch_size: Annotated[int, Field(ge=2, le=8192)] = 64
    rate: Annotated[
        float, Field(ge=0, le=10, description="Learning rate at its highest; 0: as suits.")
    ] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.0001
    optimizer: Literal["adamw", "sgd"] = "adamw"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    promote: Annotated[
        Promote,
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def check(self, session: Session, project: Project) -> Checked:
        of_project = Image.project_id == project.id
        count = session.scalars(select(func.count()).where(of_project)).one()
        # Not max(): PostgreSQL knows none of UUIDs.
        query = select(Image.id).where(of_project).order_by(Image.id.desc()).limit(1)
        newest = session.scalar(query)
        if count < self.batch_size:
            raise TooFewImages(
                f"the project has {count} images, fewer than a batch of {self.batch_size}: "
                f"upload {self.batch_size - count} more, or use a smaller batch_size",
                missing_images={"any label": self.batch_size - count},
            )
        if self.encoder is not None and self.start == "continue":
            raise InvalidRequest(
                "another encoder has no weights to continue from: leave `encoder` out, or start "
                "from random ones"
            )
        if self.encoder is not None and getattr(self.encoder.options, "weights", None):
            raise InvalidRequest("a new encoder starts from random weights: leave `weights` out")
        current = session.get_one(EncoderVersion, project.encoder_id)
        try:
            encoder = architecture_of(self.encoder, current).build(pretrained=False)
            self.method.options.build(encoder, count)
        except (Unsuited, EncoderUnavailable) as error:
            raise InvalidRequest(str(error)) from error
        fingerprint = sha256(f"{project.encoder_id} {count} {newest}".encode()).hexdigest()
        return Checked(self, fingerprint)

    def run(self, context: JobContext) -> VersionResult:
        return train_version(context, self, self.batch_size)

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> "PretrainingImages":
        data = gather(context, packed, pool=True)
        fresh = packed["fresh"] if packed else self._starts_fresh(len(data.digests))
        encoder = encoder_to_start_from(
            context, data.base, self.encoder, fresh=fresh, seed=self.seed
        )
        positions, images = decode_readable(context, data.digests, encoder)
        if len(positions) < self.batch_size:
            raise JobFailed(
                f"only {len(positions)} images can be read, fewer than a batch of {self.batch_size}"
            )
        return PretrainingImages(_only(data, positions), encoder, images, fresh)

    def begin(
        self,
        context: JobContext,
        material: "PretrainingImages",
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> "Pretrainer":
        recipe = replace(self._recipe(), batch_size=batch_size)
        method, (data, encoder, images, fresh) = self.method, material
        try:
            training = start(method.options, encoder, images, recipe, fresh=fresh)
        except Unsuited as error:
            raise JobFailed(str(error)) from error
        if state is not None:
            training.load(state)
        return Pretrainer(method.name, training, _Watch(images, data))

    def judge(
        self, context: JobContext, material: "PretrainingImages", learner: "Pretrainer"
    ) -> Trained:
        """Beside the encoder that learned no labels, and the one that serves the project now."""
        encoder, choice = learner.encoder, self.encoder
        return Trained(
            encoder,
            _judge(context, material.data, encoder),
            architecture=choice and (choice.name, json_options(choice.options)),
        )

    def _starts_fresh(self, images: int) -> bool:
        """Whether from random weights."""
        random = self.start == "random" or (self.start == "auto" and images >= FEW)
        return random or self.encoder is not None

    def _recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.rate,
            schedule="cosine",
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )


class PretrainingImages(NamedTuple):
    """All images of a project, ready to be learned from."""

    data: TrainingData
    encoder: Encoder  # to start from
    images: DecodedImages
    fresh: bool  # whether the encoder has random weights

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {**self.data.pack(), "fresh": self.fresh}


class PretrainProgress(Progress):
    """An epoch, and how features look after it."""

    method: str
    epoch: int
    epochs: int
    loss: float
    chance: float
    accuracy: float | None
    rank: float
    spread: float
    rates: dict[str, float]
    images_per_s: float


class Features(NamedTuple):
    """How features look on some images."""

    accuracy: float | None  # of nearest neighbours, on labeled images
    rank: float
    spread: float


class _Watch:
    """How features look on some images, and how well neighbours tell the labeled ones apart."""

    def __init__(self, images: DecodedImages, data: TrainingData) -> None:
        position = {digest: n for n, digest in enumerate(data.digests)}
        shots = Counter(example.label_id for example in data.labeled.examples)
        labeled = [e for e in data.labeled.examples if shots[e.label_id] >= NEIGHBOURS_NEED]
        labeled = labeled[:WATCHED]
        labels = sorted({example.label_id for example in labeled})
        generator = torch.Generator().manual_seed(0)
        sample = torch.randperm(len(images), generator=generator)[:WATCHED].tolist()
        self._sample = images.only(sample)
        self._shown = images.only(sample[:SHOWN])
        self._labeled = (
            images.only([position[e.sha256] for e in labeled]) if len(labels) > 1 else None
        )
        self._targets = torch.tensor([labels.index(e.label_id) for e in labeled])

    def look(self, encoder: Encoder) -> Features:
        was = encoder.training
        encoder.eval()
        embeddings = embed_all(encoder, self._sample)
        accuracy = None
        if self._labeled is not None:
            accuracy = nearest_accuracy(embed_all(encoder, self._labeled), self._targets)
        encoder.train(was)
        rank, spread = effective_rank(embeddings), feature_std(embeddings)
        return Features(accuracy, round(rank, 2), round(spread, 4))

    def sheet(self, objective: Pretext, epoch: int) -> Sheet | None:
        """What the method makes of some images, if that can be seen."""
        images = self._shown
        was = objective.training
        objective.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same parts are hidden each time
            values = as_values(images[torch.arange(len(images))])
            pictures = objective.pictures(values.to(objective.encoder.mean.device))
        objective.train(was)
        if pictures is None:
            return None
        png = contact_sheet(pictures.float().cpu(), side=SHOWN_SIDE)
        return Sheet(f"what it makes of images after epoch {epoch}", png, epoch)


@dataclass(frozen=True)
class Pretrainer:
    """Tells the epochs of a training."""

    method: str
    training: Training
    watch: _Watch

    @property
    def encoder(self) -> Encoder:
        """As it has learned."""
        encoder: Encoder = self.training.objective.encoder
        return encoder.eval()

    def steps(self) -> Iterator[LearningStep]:
        objective = self.training.objective
        try:
            for epoch in self.training:
                features = self.watch.look(objective.encoder)
                progress = _progress(self.method, epoch, objective.chance, features)
                show = epoch.number in _milestones(epoch.of)
                sheet = self.watch.sheet(objective, epoch.number) if show else None
                yield LearningStep(progress, epoch.seconds, epoch.of - epoch.number, sheet=sheet)
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error
        except Collapsed as error:
            raise JobFailed(f"the training collapsed: {error}") from error

    def state(self) -> dict[str, Any]:
        return self.training.state()


def _only(data: TrainingData, positions: Sequence[int]) -> TrainingData:
    """With the images at these positions alone."""
    digests = [data.digests[n] for n in positions]
    readable = set(digests)
    labeled = [n for n, e in enumerate(data.labeled.examples) if e.sha256 in readable]
    return replace(data, digests=digests, labeled=data.labeled.only(labeled))


def _milestones(epochs: int) -> set[int]:
    """The first epoch, the last, and some between."""
    return {round(1 + (epochs - 1) * n / (SHEETS - 1)) for n in range(SHEETS)}


def _progress(method: str, epoch: Epoch, chance: float, features: Features) -> PretrainProgress:
    figures = [
        Figure(name="loss", value=epoch.loss),
        Figure(name="loss by chance", value=chance),
        Figure(name="rank", value=features.rank),
    ]
    if features.accuracy is not None:
        figures.append(Figure(name="accuracy of neighbours", value=features.accuracy, unit="share"))
    return PretrainProgress(
        stage="pretraining",
        share=epoch.number / epoch.of,
        title=method,
        figures=figures,
        method=method,
        epoch=epoch.number,
        epochs=epoch.of,
        loss=epoch.loss,
        chance=chance,
        accuracy=features.accuracy,
        rank=features.rank,
        spread=features.spread,
        rates=epoch.rates,
        images_per_s=speed(epoch.images, epoch.seconds),
    )


def _judge(context: JobContext, data: TrainingData, learned: Encoder) -> VerdictRead:
    if not data.labeled.is_enough:
        return unjudged(len(data.labeled.examples))
    targets = data.labeled.targets
    count = min(JUDGED_FOLDS, int(torch.bincount(targets).min()))
    folds = [stratified_folds(targets, count, seed) for seed in range(JUDGED_REPEATS)]
    digests = [example.sha256 for example in data.labeled.examples]

    def correctness_of(encoder: Encoder, head: Head) -> torch.Tensor:
        _, images = decode_readable(context, digests, encoder)
        return correctness(predict(head, embed_all(encoder, images), targets, folds), targets)

    base = context.through_outages(lambda: context.versions.load(data.base))
    rivals = {"base": correctness_of(base, data.head)}
    candidate = correctness_of(learned, data.head)
    return judge_beside(context, data, candidate, rivals, correctness_of)
