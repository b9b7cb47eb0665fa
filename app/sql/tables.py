"""The whole schema."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column
from uuid_utils.compat import uuid7

from app.sql.columns import Float16s, Table, Text, Vector
from handful.contract.common import NAME_LENGTH
from handful.contract.jobs import JobState


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


def id_time(uuid: UUID) -> datetime:
    """When a UUIDv7 was made, to the millisecond: its first 48 bits (RFC 9562, 5.7)."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=uuid.int >> 80)


class EncoderVersion(Table):
    """Weights that never change. Vectors of two versions are never compared."""

    __tablename__ = "encoder_versions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    architecture: Mapped[str] = mapped_column(Text(100))
    options: Mapped[dict[str, Any]]
    weights: Mapped[str] = mapped_column(Text(64))  # SHA-256 of the safetensors file
    # Likewise, of the steps that were learned together with the weights; None: there are none.
    learner: Mapped[str | None] = mapped_column(Text(64))
    embedding_dim: Mapped[int]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("encoder_versions.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Project(Table):
    """A set of labels, and the encoder and head that serve them."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    description: Mapped[str] = mapped_column(default="")
    encoder_id: Mapped[UUID] = mapped_column(ForeignKey("encoder_versions.id"))
    head: Mapped[dict[str, Any]]  # {"name": plug-in, "options": {...}}
    edition: Mapped[int] = mapped_column(default=1)  # counts edits of this row, for If-Match
    # Counts every change of images or labels, so that a cache asks only for what is newer.
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    # Removals of this revision and before are forgotten: a cache that is older reads all anew.
    removals_from: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now)


class Label(Table):
    """A class of a project."""

    __tablename__ = "labels"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    edition: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Image(Table):
    """An uploaded image: a support image of its label, or in the pool while it has none."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("project_id", "sha256"),
        Index(None, "project_id", "revision"),
        Index(None, "project_id", "label_id", "id"),
        Index(None, "sha256"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    label_id: Mapped[UUID | None] = mapped_column(ForeignKey("labels.id"), index=True)
    sha256: Mapped[str] = mapped_column(Text(64))
    media_type: Mapped[str] = mapped_column(Text(50))
    width: Mapped[int]  # pixels, upright
    height: Mapped[int]
    bytes: Mapped[int] = mapped_column(BigInteger)
    filename: Mapped[str | None] = mapped_column(Text(255))  # as the client called it
    # Text by key; `metadata` is the name of something else in every table class.
    metadata_: Mapped[dict[str, str]] = mapped_column(
        "metadata", JSON, default=dict, server_default="{}"
    )
    revision: Mapped[int] = mapped_column(BigInteger)  # of the project, at the last change
    created_at: Mapped[datetime] = mapped_column(default=now)
    labeled_at: Mapped[datetime | None]


class Removal(Table):
    """An image that was deleted, so that caches elsewhere drop it too."""

    __tablename__ = "removals"
    __table_args__ = (Index(None, "project_id", "revision"),)

    image_id: Mapped[UUID] = mapped_column(primary_key=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(BigInteger)


class Boot(Table):
    """The present run of the machine that a SQLite database is on."""

    __tablename__ = "boots"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    began_at: Mapped[datetime]  # as the wall clock was when a process asked for the first time


class ChoreRun(Table):
    """When a server began last to do something for all servers."""

    __tablename__ = "chore_runs"

    name: Mapped[str] = mapped_column(String(50), primary_key=True)
    begun_at: Mapped[datetime]  # by the database's clock


class DoomedBlob(Table):
    """A file that nothing referred to when a sweep looked, and how far its removal is.

    "marked": it stays for a while, and whoever refers to it takes the mark away; "condemned": it
    may go any moment; "gone": kept for a time, so that who saw the file before learns of it.
    """

    __tablename__ = "doomed_blobs"
    __table_args__ = (Index(None, "state", "since"),)

    sha256: Mapped[str] = mapped_column(Text(64), primary_key=True)
    state: Mapped[str] = mapped_column(Text(20))
    since: Mapped[datetime]  # by the database's clock


class Embedding(Table):
    """What one encoder version makes of one image."""

    __tablename__ = "embeddings"

    image_id: Mapped[UUID] = mapped_column(
        ForeignKey("images.id", ondelete="CASCADE"), primary_key=True
    )
    encoder_id: Mapped[UUID] = mapped_column(
        ForeignKey("encoder_versions.id"), primary_key=True, index=True
    )
    vector: Mapped[Float16s] = mapped_column(Vector)


class Annotation(Table):
    """One change of an image's label: who, when, from where; history is never rewritten."""

    __tablename__ = "annotations"
    __table_args__ = (Index(None, "image_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    # Names outlive their labels: an annotation tells what was said then.
    label: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    previous: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    annotator: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    source: Mapped[str] = mapped_column(Text(50))  # "support", "annotation", "undo" ...
    undone: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Reservation(Table):
    """A pool image in the hands of one annotator; kept when it ends, for what it tells."""

    __tablename__ = "reservations"
    __table_args__ = (
        Index(None, "image_id", "outcome"),
        Index(None, "project_id", "outcome", "annotator"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    annotator: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    lease_until: Mapped[datetime]  # by the database's clock
    strategy: Mapped[str] = mapped_column(Text(100))
    # With which probability it was drawn from the whole pool; None when the strategy chose it.
    propensity: Mapped[float | None]
    # None while it is held, or until a lapsed lease is noticed: "labeled", "skipped", "lapsed"
    outcome: Mapped[str | None] = mapped_column(Text(20))
    created_at: Mapped[datetime] = mapped_column(default=now)


class LabelStudioProject(Table):
    """A project of Label Studio whose backend a project is."""

    __tablename__ = "label_studio_projects"

    project_id: Mapped[UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    studio_project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    choices: Mapped[str] = mapped_column(Text(NAME_LENGTH))  # name of the control
    # The version of the suggestions that were pushed last; None: it asks for them itself.
    pushed: Mapped[str | None] = mapped_column(Text(100))


class LabelStudioTask(Table):
    """Which image a task of Label Studio shows."""

    __tablename__ = "label_studio_tasks"

    project_id: Mapped[UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    studio_project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), index=True)


class LabelStudioAnnotation(Table):
    """What an annotation of Label Studio said last; that it was deleted is told by its id alone."""

    __tablename__ = "label_studio_annotations"
    __table_args__ = (Index(None, "project_id", "studio_project", "task"),)

    project_id: Mapped[UUID] = mapped_column(
        ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True
    )
    studio_project: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    annotation: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task: Mapped[int] = mapped_column(BigInteger)
    label: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))  # None: skipped, or no choice
    annotator: Mapped[str | None] = mapped_column(Text(NAME_LENGTH))
    updated_at: Mapped[datetime]


class StoredResponse(Table):
    """The answer that an `Idempotency-Key` got, or a claim on it while its request runs."""

    __tablename__ = "answers"
    __table_args__ = (Index(None, "created_at"),)

    key: Mapped[str] = mapped_column(Text(64), primary_key=True)  # hash of key and address
    token: Mapped[UUID | None]  # of the request that makes the answer
    fingerprint: Mapped[str | None] = mapped_column(Text(64))  # of the request body
    status: Mapped[int | None]  # None while the first request runs
    headers: Mapped[dict[str, Any]] = mapped_column(default=dict)
    body: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    created_at: Mapped[datetime] = mapped_column(default=now)  # or renewed, by the database's clock


class Job(Table):
    """A task in the background. Who holds `token` may write; a new claim makes a new one."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "project_id", "id"), Index(None, "state", "id"))

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(Text(100))
    options: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(Text(64))  # of kind, options and input
    state: Mapped[JobState] = mapped_column(Text(20), default=JobState.QUEUED)
    attempt: Mapped[int] = mapped_column(default=0)  # how often a worker took it
    token: Mapped[UUID | None]  # of the present claim
    lease_until: Mapped[datetime | None]  # by the database's clock
    # Not to be taken up before, by the database's clock; what has waited for longest comes first.
    due_at: Mapped[datetime] = mapped_column(default=now)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    checkpoint: Mapped[str | None] = mapped_column(Text(64))  # SHA-256 of the file
    predictions: Mapped[str | None] = mapped_column(Text(64))  # likewise, of what it predicted
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error: Mapped[str | None]
    events: Mapped[int] = mapped_column(default=0)  # how many there are
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Table):
    """What happened to a job; only ever appended, numbered from 1 without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(Text(20))  # "state", "metrics", "message" or "picture"
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)


class ProjectVersion(Table):
    """An encoder version that belongs to a project: one that a job made, or that was uploaded."""

    __tablename__ = "project_versions"
    __table_args__ = (UniqueConstraint("job_id"), Index(None, "project_id", "encoder_id"))

    encoder_id: Mapped[UUID] = mapped_column(
        ForeignKey("encoder_versions.id", ondelete="CASCADE"), primary_key=True
    )
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    metrics: Mapped[dict[str, Any]]  # how it was judged; empty for an upload


class LearnedHead(Table):
    """A head that a job has learned on the embeddings of a version; its weights never change."""

    __tablename__ = "learned_heads"
    __table_args__ = (UniqueConstraint("job_id"), Index(None, "project_id", "id"))

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    encoder_id: Mapped[UUID] = mapped_column(
        ForeignKey("encoder_versions.id", ondelete="CASCADE"), index=True
    )
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    method: Mapped[str] = mapped_column(Text(100))  # by which it was learned, and its options
    options: Mapped[dict[str, Any]]
    weights: Mapped[str] = mapped_column(Text(64))  # SHA-256 of the safetensors file
    metrics: Mapped[dict[str, Any]]  # how it was judged
    created_at: Mapped[datetime] = mapped_column(default=now)


class TrainingImage(Table):
    """A labeled image that a version learned from, as it was then."""

    __tablename__ = "training_images"

    encoder_id: Mapped[UUID] = mapped_column(
        ForeignKey("encoder_versions.id", ondelete="CASCADE"), primary_key=True
    )
    image_id: Mapped[UUID] = mapped_column(primary_key=True)  # which may be deleted since
    label_id: Mapped[UUID]
    label: Mapped[str] = mapped_column(Text(NAME_LENGTH))
    # Ids of labels: what models of the same kind that never saw the image made of it.
    predicted: Mapped[list[str]]


class Webhook(Table):
    """An address that is told what happens in a project."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text(2000))
    events: Mapped[list[str]]  # that it is told
    secret: Mapped[str] = mapped_column(Text(100))  # that signs what it is told
    gone: Mapped[bool] = mapped_column(default=False)  # it wants no more, or failed for days
    failures: Mapped[int] = mapped_column(default=0)  # one after the other, until now
    failing_since: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]  # after so many failures nothing is sent for a while
    tried_at: Mapped[datetime | None]  # when something was last sent, or its turn was over
    busy_until: Mapped[datetime | None]  # a message is under way; these by the database's clock
    created_at: Mapped[datetime] = mapped_column(default=now)


class Delivery(Table):
    """A message to a webhook. Due until it has arrived or was tried too often."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index(None, "webhook_id", "id"),
        Index(None, "webhook_id", "due_at"),
        Index(None, "due_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    webhook_id: Mapped[UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    event: Mapped[str] = mapped_column(Text(50))
    body: Mapped[str]  # JSON, as it is sent and signed
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime | None] = mapped_column(default=now)  # None: it will not be tried again
    delivered_at: Mapped[datetime | None]
    status: Mapped[int | None]  # of HTTP, that the last attempt was answered with
    error: Mapped[str | None]  # of the last attempt
    created_at: Mapped[datetime] = mapped_column(default=now)
