"""Pretraining: the encoder learns from all images of a project, with labels or without."""

from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import torch
from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.encoders.versions import derive_version, json_options
from app.jobs.context import Checked, JobContext, JobFailed, TrainedVersion
from app.jobs.kinds import kinds
from app.jobs.training_data import DecodedImages, Labeled, labeled_images
from app.jobs.verdicts import correctness, out_of_fold_correctness, verdict_document
from app.plugin_fields import plugin_field, plugins_from
from app.problems import InvalidRequest, TooFewImages
from app.sql.tables import EncoderVersion, Image, Project, ProjectVersion
from models.augmentation.contact_sheet import contact_sheet
from models.embeddings.representation import effective_rank, feature_std, nearest_accuracy
from models.encoders import Architecture, Encoder, EncoderUnavailable
from models.encoders.architectures import architectures
from models.evaluation.comparison import compare
from models.evaluation.folds import predict, stratified_folds
from models.finetuning import embed_all
from models.heads import Head
from models.heads.kinds import heads
from models.pretraining import Collapsed, Pretext, Unsuited, start
from models.pretraining.methods import methods
from models.training.loop import Diverged, Epoch, Training, as_values
from models.training.recipe import Recipe

PretextChoice: Any = plugin_field(methods)
EncoderChoice: Any = plugin_field(architectures)
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
        Literal["auto", "never", "always"],
        Field(description="Whether the result then serves the project; auto: if it is better."),
    ] = "auto"

    def check(self, session: Session, project: Project) -> Checked:
        query = select(func.count(), func.max(Image.id)).where(Image.project_id == project.id)
        count, newest = session.execute(query).one()
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
            encoder = self._architecture(current).build(pretrained=False)
            self.method.options.build(encoder, count)
        except (Unsuited, EncoderUnavailable) as error:
            raise InvalidRequest(str(error)) from error
        given = f"{project.encoder_id} {count} {newest}"
        return Checked(self, sha256(given.encode()).hexdigest())

    def run(self, work: JobContext) -> dict[str, Any]:
        return work.conclude(work.made() or self._train(work), self.promote)

    def _architecture(self, version: EncoderVersion) -> Architecture:
        if self.encoder is not None:
            chosen: Architecture = self.encoder.options
            return chosen
        return architectures[version.architecture](**version.options)

    def _train(self, work: JobContext) -> TrainedVersion:
        checkpoint = work.checkpoint()
        data = work.patiently(lambda: _gather(work, checkpoint))
        base = work.patiently(lambda: work.versions.load(data.base))
        fresh = self._is_fresh(len(data.digests))
        encoder = self._begin(work, data, base) if fresh else base
        kept, images = work.readable(data.digests, encoder)
        if len(kept) < self.batch_size:
            raise JobFailed(
                f"only {len(kept)} images can be read, fewer than a batch of {self.batch_size}"
            )
        if len(kept) < len(data.digests):
            data, checkpoint = data.only(kept), None
        size = checkpoint["batch_size"] if checkpoint else self.batch_size

        def attempt(batch_size: int, first: bool) -> Encoder:
            begun = checkpoint if batch_size == size else None
            recipe = replace(self._recipe(), batch_size=batch_size)
            try:
                training = start(self.method.options, encoder, images, recipe, fresh=fresh)
            except Unsuited as error:
                raise JobFailed(str(error)) from error
            watch = _Watch(images, data)
            return self._learn(work, training, data, watch, begun, batch_size, first=first)

        learned = work.fitting(self.batch_size, attempt, start=size)
        verdict = _judge(work, data, base, learned)
        return _save(work, data, learned, self.encoder, verdict)

    def _is_fresh(self, images: int) -> bool:
        chance = self.start == "random" or (self.start == "auto" and images >= FEW)
        return chance or self.encoder is not None

    def _begin(self, work: JobContext, data: "_Data", base: Encoder) -> Encoder:
        """An encoder with random weights, the same ones for a seed."""
        with work.db.reading() as session:
            version = session.get_one(EncoderVersion, data.base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = self._architecture(version).build(pretrained=False)
        return encoder.to(base.mean.device)

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

    def _learn(
        self,
        work: JobContext,
        training: Training,
        data: "_Data",
        watch: "_Watch",
        checkpoint: dict[str, Any] | None,
        batch_size: int,
        *,
        first: bool,
    ) -> Encoder:
        """Train to the end, telling of each epoch once; the encoder that learned."""
        told = None
        if checkpoint is not None:
            training.load(checkpoint["training"])
        if checkpoint is not None or (work.claim.checkpoint is None and first):
            told = work.patiently(lambda: work.queue.last_metrics(work.claim))
        work.running()
        seconds: list[float] = []
        try:
            for epoch in training:
                seconds.append(epoch.seconds)
                if told is None or epoch.number > told.get("epoch", 0):
                    encoder, chance = training.objective.encoder, training.objective.chance
                    work.tell(_metrics(self.method.name, epoch, chance, watch(encoder), seconds))
                    if epoch.number in _milestones(epoch.of):
                        _show(work, training.objective, watch.shown, epoch.number)
                work.keep(
                    lambda: {
                        "training": training.state(),
                        "batch_size": batch_size,
                        "data": data.pack(),
                    }
                )
        except Diverged as error:
            raise JobFailed(f"{error}; try a lower rate") from error
        except Collapsed as error:
            raise JobFailed(f"the training collapsed: {error}") from error
        learned: Encoder = training.objective.encoder
        return learned.eval()


class _Data(NamedTuple):
    """What a job learns from and is judged with, fixed when it first started."""

    digests: list[str]  # of all images
    labeled: Labeled
    champion: UUID  # the version that served the project
    base: UUID  # the version that has not seen the labels
    head: dict[str, Any]

    def only(self, kept: list[int]) -> "_Data":
        """With these images alone."""
        digests = [self.digests[n] for n in kept]
        there = set(digests)
        positions = [n for n, e in enumerate(self.labeled.examples) if e.sha256 in there]
        return self._replace(digests=digests, labeled=self.labeled.only(positions))

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "digests": self.digests,
            "labeled": self.labeled.pack(),
            "champion": str(self.champion),
            "base": str(self.base),
            "head": self.head,
        }

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "_Data":
        """What was packed."""
        return cls(
            packed["digests"],
            Labeled.unpack(packed["labeled"]),
            UUID(packed["champion"]),
            UUID(packed["base"]),
            packed["head"],
        )


class _Watch:
    """How features look on some images, and how well neighbours tell the labeled ones apart."""

    def __init__(self, images: DecodedImages, data: _Data) -> None:
        place = {digest: n for n, digest in enumerate(data.digests)}
        shots = Counter(example.label_id for example in data.labeled.examples)
        known = [e for e in data.labeled.examples if shots[e.label_id] >= NEIGHBOURS_NEED][:WATCHED]
        labels = sorted({example.label_id for example in known})
        chance = torch.Generator().manual_seed(0)
        some = torch.randperm(len(images), generator=chance)[:WATCHED].tolist()
        self._some = images.only(some)
        self.shown = images.only(some[:SHOWN])
        self._known = images.only([place[e.sha256] for e in known]) if len(labels) > 1 else None
        self._targets = torch.tensor([labels.index(e.label_id) for e in known])

    def __call__(self, encoder: Encoder) -> dict[str, float | None]:
        was = encoder.training
        encoder.eval()
        embeddings = embed_all(encoder, self._some)
        accuracy = None
        if self._known is not None:
            accuracy = nearest_accuracy(embed_all(encoder, self._known), self._targets)
        encoder.train(was)
        return {
            "accuracy": accuracy,
            "rank": round(effective_rank(embeddings), 2),
            "spread": round(feature_std(embeddings), 4),
        }


def _gather(work: JobContext, checkpoint: dict[str, Any] | None) -> _Data:
    if checkpoint is not None:
        return _Data.unpack(checkpoint["data"])
    with work.db.reading() as session:
        project = session.get_one(Project, work.project_id)
        query = select(Image.sha256).where(Image.project_id == project.id).order_by(Image.id)
        digests = list(session.scalars(query))
        labeled = labeled_images(session, project.id)
        champion, head = project.encoder_id, project.head
    return _Data(digests, labeled, champion, work.versions.base(champion), head)


def _milestones(epochs: int) -> set[int]:
    """The first epoch, the last, and some between."""
    return {round(1 + (epochs - 1) * n / (SHEETS - 1)) for n in range(SHEETS)}


def _show(work: JobContext, objective: Pretext, images: DecodedImages, epoch: int) -> None:
    """Tell what the method makes of some images, if that can be seen."""
    was = objective.training
    objective.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same parts are hidden each time
        values = as_values(images[torch.arange(len(images))])
        pictures = objective.pictures(values.to(objective.encoder.mean.device))
    objective.train(was)
    if pictures is not None:
        png = contact_sheet(pictures.float().cpu(), side=SHOWN_SIDE)
        work.show(f"what it makes of images after epoch {epoch}", png, epoch=epoch)


def _metrics(
    method: str,
    epoch: Epoch,
    chance: float,
    watched: dict[str, float | None],
    seconds: list[float],
) -> dict[str, Any]:
    left = (epoch.of - epoch.number) * sum(seconds) / len(seconds)
    return {
        "stage": "pretraining",
        "method": method,
        "epoch": epoch.number,
        "epochs": epoch.of,
        "loss": epoch.loss,
        "chance": chance,
        **watched,
        "rates": epoch.rates,
        "images_per_s": round(epoch.images / max(epoch.seconds, 1e-9), 1),
        "seconds_left": round(left, 1),
    }


def _judge(work: JobContext, data: _Data, base: Encoder, learned: Encoder) -> dict[str, Any]:
    """Compare with the encoder that learned no labels, and with the one that serves now."""
    if not data.labeled.is_enough:
        return {
            "better": False,
            "reason": "there are too few labels to judge it: two with two images each are needed",
            "images": len(data.labeled.examples),
            "against": {},
        }
    head: Head = heads[data.head["name"]](**data.head["options"])
    targets = data.labeled.targets
    count = min(JUDGED_FOLDS, int(torch.bincount(targets).min()))
    folds = [stratified_folds(targets, count, seed) for seed in range(JUDGED_REPEATS)]

    def right(encoder: Encoder) -> torch.Tensor:
        _, images = work.readable([e.sha256 for e in data.labeled.examples], encoder)
        return correctness(predict(head, embed_all(encoder, images), targets, folds), targets)

    candidate, rivals = right(learned), {"base": right(base)}
    if data.champion != data.base:
        champion = work.patiently(lambda: work.versions.load(data.champion))
        own = right(champion)
        rivals["champion"] = work.patiently(
            lambda: out_of_fold_correctness(work.db, data.champion, data.labeled, own)
        )
    verdicts = {name: compare(candidate, rival, targets) for name, rival in rivals.items()}
    worst = min(verdicts.values(), key=lambda verdict: (verdict.better, verdict.probability))
    return {
        "better": worst.better,
        "reason": worst.reason,
        "images": len(targets),
        "against": {name: verdict_document(verdict) for name, verdict in verdicts.items()},
    }


def _save(
    work: JobContext, data: _Data, learned: Encoder, chosen: Any, verdict: dict[str, Any]
) -> TrainedVersion:
    """Store the version, once however often the job is interrupted."""
    weights = work.versions.store(learned)

    def write() -> UUID:
        with work.queue.holding(work.claim) as session:
            base = session.get_one(EncoderVersion, data.base)
            version = derive_version(base, weights)
            if chosen is not None:
                version.architecture = chosen.name
                version.options = json_options(chosen.options)
                version.embedding_dim = learned.embedding_dim
            session.add(version)
            session.flush()
            session.add(
                ProjectVersion(
                    encoder_id=version.id,
                    project_id=work.project_id,
                    job_id=work.claim.job_id,
                    metrics={"champion": str(data.champion), **verdict},
                )
            )
            return version.id

    return TrainedVersion(work.patiently(write), data.champion, verdict)
