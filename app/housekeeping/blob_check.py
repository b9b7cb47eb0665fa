"""Compares the files of the store with the rows that refer to them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, literal, select
from sqlalchemy.orm import Session

from app.sql.blob_marks import in_use
from app.sql.database import Database
from app.sql.tables import EncoderVersion, Image, Job, LearnedHead, Project
from app.storage.blobs import PREFIXES, Blobs

ADVICE = {
    "image": "upload the same picture again, restore the file from a backup, or delete the image",
    "weights": "restore the file from a backup; without it the version cannot serve",
    "head": "restore the file from a backup, or give the project another head",
    "learner": "restore the file from a backup; without it `adapt` cannot start from the version",
    "checkpoint": "nothing: the job starts over",
    "predictions": "start another job of the same kind, or restore the file from a backup",
}
Uses = defaultdict[str, list["BlobUse"]]  # of files, by their names
ORPHANED = "nothing: a sweep removes it an hour after another has seen it"


@dataclass(frozen=True)
class BlobUse:
    """A row that refers to a file."""

    kind: str  # "image", "weights", "learner", "head", "checkpoint" or "predictions"
    id: str  # of the image, encoder version, learned head or job
    project: str | None


@dataclass(frozen=True)
class BlobProblem:
    """A file that is not as it should be."""

    problem: Literal["missing", "damaged", "orphaned"]
    sha256: str
    bytes: int | None  # as it lies there
    uses: tuple[BlobUse, ...]
    advice: str

    @property
    def is_loss(self) -> bool:
        """Whether something cannot be read any more."""
        return self.problem != "orphaned"


def check(db: Database, blobs: Blobs) -> Iterator[BlobProblem]:
    """Read every file, and tell which are missing, damaged, or of no use to any row."""
    with db.reading() as session:
        by_service = _uses_by_service(session)
    for prefix, files in zip(PREFIXES, blobs.files(), strict=True):
        sizes = {file.sha256: file.size for file in files}
        with db.reading() as session:
            uses = _uses_by_images(session, prefix)
        for digest in by_service:
            if digest.startswith(prefix):
                uses[digest] += by_service[digest]
        for digest in sorted(sizes.keys() | uses.keys()):
            problem = _problem(blobs, digest, bool(uses[digest]))
            if problem is not None and _is_so_still(db, blobs, problem, digest):
                advice = [ADVICE[kind] for kind in dict.fromkeys(u.kind for u in uses[digest])]
                yield BlobProblem(
                    problem,
                    digest,
                    sizes.get(digest),
                    tuple(uses[digest]),
                    "; ".join(advice) or ORPHANED,
                )


def _problem(
    blobs: Blobs, digest: str, used: bool
) -> Literal["missing", "damaged", "orphaned"] | None:
    if not used:
        return "orphaned"
    try:
        return None if blobs.is_intact(digest) else "damaged"
    except FileNotFoundError:
        return "missing"


def _is_so_still(db: Database, blobs: Blobs, problem: str, digest: str) -> bool:
    """Whether it is no upload or deletion of this moment."""
    with db.reading() as session:
        used = bool(in_use(session, [digest]))
    if problem == "orphaned":
        return not used and blobs.size(digest) is not None
    return used


def _uses_by_service(session: Session) -> Uses:
    """What versions and jobs refer to: few files, so that one look is for all folders."""
    of_versions = [
        select(column, literal(kind), EncoderVersion.id, literal(None)).where(column.is_not(None))
        for column, kind in (
            (EncoderVersion.weights, "weights"),
            (EncoderVersion.learner, "learner"),
        )
    ]
    of_heads = select(LearnedHead.weights, literal("head"), LearnedHead.id, Project.name).join(
        Project, Project.id == LearnedHead.project_id
    )
    of_jobs = [
        select(column, literal(kind), Job.id, Project.name)
        .join(Project, Project.id == Job.project_id)
        .where(column.is_not(None))
        for column, kind in ((Job.checkpoint, "checkpoint"), (Job.predictions, "predictions"))
    ]
    uses: Uses = defaultdict(list)
    for query in (*of_versions, of_heads, *of_jobs):
        _collect(session, query, uses)
    return uses


def _uses_by_images(session: Session, prefix: str) -> Uses:
    """What images refer to, of the files whose names begin so."""
    query = (
        select(Image.sha256, literal("image"), Image.id, Project.name)
        .join(Project, Project.id == Image.project_id)
        .where(Image.sha256 >= prefix, Image.sha256 < f"{prefix}g")  # digits are 0 to f
    )
    uses: Uses = defaultdict(list)
    _collect(session, query, uses)
    return uses


def _collect(session: Session, query: Select[*tuple[Any, ...]], uses: Uses) -> None:
    for digest, kind, row_id, project in session.execute(query):
        uses[digest].append(BlobUse(kind, str(row_id), project))
