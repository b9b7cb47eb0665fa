"""The skeleton of a job that learns: gather, learn, judge, save, whatever interrupts it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import torch
from sqlalchemy import select

from app.encoders.versions import derive_version
from app.jobs.checkpoints import Checkpoint, Checkpoints
from app.jobs.context import JobContext, JobFailed
from app.jobs.promotion import Promote, TrainedVersion, VersionResult, promote_if_better
from app.jobs.training_data import TrainingData
from app.sql.blob_marks import unmark
from app.sql.tables import EncoderVersion, LearnedHead, ProjectVersion, TrainingImage
from handful.contract.jobs import Figure, Progress, VerdictRead
from models.encoders import Encoder
from models.finetuning.model_selection import SelectionProgress
from models.transduction.cross_validation import TransductionProgress


class Sheet(NamedTuple):
    """A picture of what was learned."""

    text: str
    png: bytes
    epoch: int


class LearningStep(NamedTuple):
    """What a learner did last."""

    progress: Progress  # all but the time left; its share grows from step to step
    seconds: float
    remaining: int  # steps to come
    pace: str = ""  # steps of one pace take about as long as each other
    quiet: bool = False  # too small to be told
    sheet: Sheet | None = None


class RunProgress(Progress):
    """An epoch of one of several runs, of which each leaves out a fold, and the last none."""

    run: int
    runs: int
    fold: int | None
    epoch: int
    epochs: int
    loss: float
    images_per_s: float


class Learner(Protocol):
    """Learns step by step; what it learned is in its state, to go on from."""

    def steps(self) -> Iterator[LearningStep]: ...

    def state(self) -> dict[str, Any]: ...


class Packable(Protocol):
    """What a learner learns from."""

    def pack(self) -> dict[str, Any]:
        """Plain values; what was learned from others is of no use."""
        ...


class Trainable(Packable, Protocol):
    """What an encoder learns from."""

    @property
    def data(self) -> TrainingData: ...


MadeT = TypeVar("MadeT", ProjectVersion, LearnedHead)
MaterialT = TypeVar("MaterialT", bound=Packable)
TrainableT = TypeVar("TrainableT", bound=Trainable)
LearnerT = TypeVar("LearnerT", bound=Learner)
Learner_co = TypeVar("Learner_co", bound=Learner, covariant=True)


class LearningKind(Protocol[MaterialT, Learner_co]):
    """A kind of job that learns."""

    def gather(self, context: JobContext, packed: dict[str, Any] | None) -> MaterialT:
        """What to learn from, as far as it can be read.

        Args:
            packed: what an earlier attempt of the job learned from.
        """
        ...

    def begin(
        self,
        context: JobContext,
        material: MaterialT,
        batch_size: int,
        state: dict[str, Any] | None,
    ) -> Learner_co:
        """A learner, gone on from a state if there is one."""
        ...


class Trained(NamedTuple):
    """An encoder that has learned, and what is to be written of it."""

    encoder: Encoder
    verdict: VerdictRead
    projected: bool = False  # it is the one from which it started, and a projection
    architecture: tuple[str, dict[str, object]] | None = None  # name and options, if another
    # What it has learned beside its weights: see `models.metalearning.adaptation`.
    learner: dict[str, Any] | None = None
    # Labels of each image by models that never saw it; none where it was not learned from.
    predicted: Sequence[Sequence[UUID]] = ()


class TrainingKind(LearningKind[TrainableT, LearnerT], Protocol[TrainableT, LearnerT]):
    """A kind of job that trains an encoder."""

    @property
    def promote(self) -> Promote: ...

    def judge(self, context: JobContext, material: TrainableT, learner: LearnerT) -> Trained:
        """What came out of a learner that has done all its steps."""
        ...


def train_version(
    context: JobContext, kind: TrainingKind[TrainableT, LearnerT], batch_size: int
) -> VersionResult:
    """Make a version, once however often the job is interrupted; promote it if it is better."""
    version = _saved_version(context)
    if version is None:
        material, learner = learn(context, kind, batch_size)
        version = _save(context, material.data, kind.judge(context, material, learner))
    return promote_if_better(context, version, kind.promote)


def learn(
    context: JobContext, kind: LearningKind[MaterialT, LearnerT], batch_size: int = 0
) -> tuple[MaterialT, LearnerT]:
    """Do all steps of a kind, and tell each once; what it learned from, and its learner.

    Args:
        batch_size: that was asked for, halved once where memory runs out; 0: of no batches.
    """
    checkpoints = Checkpoints(context)
    checkpoint = checkpoints.resume()
    material = kind.gather(context, checkpoint.material if checkpoint else None)
    packed = material.pack()
    if checkpoint and checkpoint.material != packed:
        context.message("labels or images have changed since the checkpoint: starting over")
        checkpoint = None

    def attempt(size: int) -> LearnerT:
        state = checkpoint.learner if checkpoint and checkpoint.batch_size == size else None
        learner = kind.begin(context, material, size, state)
        first = size == batch_size and context.claim.checkpoint is None
        announcer = _Announcer(
            context, context.last_metrics() if first or state is not None else None
        )
        context.mark_running()
        for step in learner.steps():
            announcer.announce(step)
            checkpoints.write(lambda: Checkpoint(packed, learner.state(), size))
        return learner

    start = checkpoint.batch_size if checkpoint else batch_size
    return material, _halving_batches(context, batch_size, attempt, start)


def step_of_run(
    kind: type[RunProgress],
    place: SelectionProgress | TransductionProgress,
    *,
    stage: str,
    title: str,
    figures: Sequence[Figure] = (),
    pace: str = "",
    quiet: bool = False,
    **fields: Any,
) -> LearningStep:
    """An epoch of one of several runs, of as many epochs each.

    Args:
        figures: besides the loss.
        fields: that the kind of job adds to those of `RunProgress`.
    """
    epoch = place.epoch
    progress = kind(
        stage=stage,
        share=(place.run - 1 + epoch.number / epoch.of) / place.runs,
        title=title,
        figures=[Figure(name="loss", value=epoch.loss), *figures],
        run=place.run,
        runs=place.runs,
        fold=place.fold,
        epoch=epoch.number,
        epochs=epoch.of,
        loss=epoch.loss,
        images_per_s=speed(epoch.images, epoch.seconds),
        **fields,
    )
    remaining = (place.runs - place.run + 1) * epoch.of - epoch.number
    return LearningStep(progress, epoch.seconds, remaining, pace, quiet)


def speed(images: int, seconds: float) -> float:
    """Images per second."""
    return round(images / max(seconds, 1e-9), 1)


class _Announcer:
    """Tells of each step unless an earlier attempt has.

    Args:
        last: what was told last.
    """

    def __init__(self, context: JobContext, last: Progress | None) -> None:
        self._context = context
        self._last = last
        self._seconds: dict[str, list[float]] = defaultdict(list)  # of steps of each pace

    def announce(self, step: LearningStep) -> None:
        progress, last = step.progress, self._last
        if last is not None and last.stage == progress.stage and last.share >= progress.share:
            return
        seconds = self._seconds[step.pace]
        seconds.append(step.seconds)
        seconds_left = round(step.remaining * sum(seconds) / len(seconds), 1)
        if not step.quiet:
            self._context.metrics(progress.model_copy(update={"seconds_left": seconds_left}))
        if step.sheet is not None:
            self._context.picture(**step.sheet._asdict())


def made_by_job(context: JobContext, table: type[MadeT]) -> MadeT | None:
    """The row that an earlier attempt of this job has made."""
    query = select(table).where(table.job_id == context.claim.job_id)

    def read() -> MadeT | None:
        with context.db.reading() as session:
            return session.scalar(query)

    return context.through_outages(read)


def _halving_batches(
    context: JobContext, batch_size: int, attempt: Callable[[int], LearnerT], start: int
) -> LearnerT:
    """Do what may take too much memory; once more with half the batch if it does.

    Args:
        batch_size: that was asked for; 0: there are no batches to halve.
        start: the one to start with; less where the job was interrupted after it was halved.

    Raises:
        JobFailed: half the batch is too much as well.
    """
    size = start
    while True:
        try:
            return attempt(size)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not batch_size or not _is_out_of_memory(error):
                raise
            if size < batch_size or size == 1:
                raise JobFailed(
                    f"out of memory even with batches of {size}: use a smaller batch_size, "
                    "fewer methods, or a smaller encoder"
                ) from error
            size //= 2
            context.message(f"out of memory: starting over with batches of {size}")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch says so with a plain RuntimeError."""
    plain = "can't allocate memory" in str(error) or "not enough memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or plain


def _saved_version(context: JobContext) -> TrainedVersion | None:
    """The version that an earlier attempt of this job has made."""
    version = made_by_job(context, ProjectVersion)
    if version is None:
        return None
    verdict = dict(version.metrics)
    champion = UUID(verdict.pop("champion"))
    return TrainedVersion(version.encoder_id, champion, VerdictRead.model_validate(verdict))


def _save(context: JobContext, data: TrainingData, trained: Trained) -> TrainedVersion:
    """Store the version and all that is known of it at once."""
    verdict = trained.verdict.model_dump(mode="json")

    def write(weights: str, learner: str | None) -> UUID | None:
        with context.queue.holding(context.claim) as session:
            if not unmark(session, filter(None, [weights, learner])):
                return None
            base = session.get_one(EncoderVersion, data.base)
            version = derive_version(base, weights, projected=trained.projected)
            version.learner = learner
            if trained.architecture is not None:
                version.architecture, version.options = trained.architecture
                version.embedding_dim = trained.encoder.embedding_dim
            session.add(version)
            session.flush()
            session.add(
                ProjectVersion(
                    encoder_id=version.id,
                    project_id=context.project_id,
                    job_id=context.claim.job_id,
                    metrics={"champion": str(data.champion), **verdict},
                )
            )
            session.add_all(_training_images(version.id, data, trained.predicted))
            return version.id

    while True:
        weights, document = context.versions.store(trained.encoder), trained.learner
        learner = None if document is None else context.versions.store_learner(document)
        version_id = context.through_outages(partial(write, weights, learner))
        if version_id is not None:
            return TrainedVersion(version_id, data.champion, trained.verdict)


def _training_images(
    version: UUID, data: TrainingData, predicted: Sequence[Sequence[UUID]]
) -> Iterator[TrainingImage]:
    """The labeled images that a version learned from; none where it has predicted none."""
    for example, labels in zip(data.labeled.examples, predicted, strict=bool(predicted)):
        if not labels:
            continue
        yield TrainingImage(
            encoder_id=version,
            image_id=example.image_id,
            label_id=example.label_id,
            label=example.label,
            predicted=[str(label) for label in labels],
        )
