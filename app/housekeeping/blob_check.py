"""Compares the files of the store with the rows that refer to them."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, literal, select
from sqlalchemy.orm import Session

from app.sql.blob_marks import in_use
from app.sql.database import Database
from app.sql.tables import EncoderVersion, Image, Job, Project
from app.storage.blobs import PREFIXES, Blobs

ADVICE = {
    "image": "upload the same picture again, restore the file from a backup, or delete the image",
    "weights": "restore the file from a backup; without it the version cannot serve",
    "checkpoint": "nothing: the job starts over",
    "predictions": "start another job of the same kind, or restore the file from a backup",
}
ORPHANED = "nothing: a sweep removes it an hour after another has seen it"


@dataclass(frozen=True)
class BlobUse:
    """A row that refers to a file."""

    kind: str  # "image", "weights", "checkpoint" or "predictions"
    id: str  # of the image, encoder version or job
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
    for prefix, files in zip(PREFIXES, blobs.files(), strict=True):
        sizes = {file.sha256: file.size for file in files}
        with db.reading() as session:
            uses = _uses(session, prefix)
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


def _uses(session: Session, prefix: str) -> defaultdict[str, list[BlobUse]]:
    """The rows that refer to files whose names begin so, by the names."""
    uses: defaultdict[str, list[BlobUse]] = defaultdict(list)
    of_images: Select[*tuple[Any, ...]] = select(
        Image.sha256, literal("image"), Image.id, Project.name
    ).join(Project, Project.id == Image.project_id)
    of_weights = select(
        EncoderVersion.weights, literal("weights"), EncoderVersion.id, literal(None)
    )
    of_jobs = [
        select(column, literal(kind), Job.id, Project.name).join(
            Project, Project.id == Job.project_id
        )
        for column, kind in ((Job.checkpoint, "checkpoint"), (Job.predictions, "predictions"))
    ]
    for query in (of_images, of_weights, *of_jobs):
        digest_column = query.selected_columns[0]
        rows = session.execute(
            query.where(digest_column >= prefix, digest_column < f"{prefix}g")  # digits are 0 to f
        )
        for digest, kind, row_id, project in rows:
            uses[digest].append(BlobUse(kind, str(row_id), project))
    return uses
