"""What jobs learn from: the images and labels of a project as they were when a job started."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import torch
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.jobs.context import JobContext
from app.problems import TooFewImages
from app.sql.head_choices import without_learned
from app.sql.tables import Image, Label, Project
from models.heads import Head
from models.heads.kinds import heads

FEWEST = 2  # labels, and images of each: one to learn from and one to judge with


class Example(NamedTuple):
    """An image and its label, as they were when a job started."""

    image_id: UUID
    sha256: str
    label_id: UUID
    label: str


class Labeled(NamedTuple):
    """Labeled images, fixed when a job first started."""

    examples: list[Example]

    @property
    def labels(self) -> list[UUID]:
        """Those that occur, in the order of the classes."""
        return sorted({example.label_id for example in self.examples})

    @property
    def names(self) -> list[str]:
        """Of the labels."""
        names = {example.label_id: example.label for example in self.examples}
        return [names[label] for label in self.labels]

    @property
    def targets(self) -> Tensor:
        """The class of each image: (M,)."""
        position = {label: n for n, label in enumerate(self.labels)}
        return torch.tensor([position[example.label_id] for example in self.examples])

    @property
    def is_enough(self) -> bool:
        """Whether there are labels and images enough to learn from and to judge with."""
        shots = Counter(example.label_id for example in self.examples)
        return len(shots) >= FEWEST and min(shots.values()) >= FEWEST

    def only(self, positions: Iterable[int]) -> "Labeled":
        """These images alone."""
        return Labeled([self.examples[n] for n in positions])

    def pack(self) -> list[list[str]]:
        """Plain values, for a checkpoint."""
        return [[str(e.image_id), e.sha256, str(e.label_id), e.label] for e in self.examples]

    @classmethod
    def unpack(cls, packed: list[list[str]]) -> "Labeled":
        """What was packed."""
        return cls(
            [
                Example(UUID(image), sha256, UUID(label), name)
                for image, sha256, label, name in packed
            ]
        )


@dataclass(frozen=True)
class TrainingData:
    """What a job learns from and is judged with, fixed when it first started."""

    labeled: Labeled
    champion: UUID  # the version that served the project
    base: UUID  # the nearest version to it that has not seen the labels
    head_choice: dict[str, Any]
    digests: Sequence[str] = ()  # of all images, for a kind that needs no labels

    @property
    def head(self) -> Head:
        """That a new version would have, not fitted yet; learned ones fit the champion alone."""
        choice = without_learned(self.head_choice)
        head: Head = heads[choice["name"]](**choice["options"])
        return head

    def pack(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "labeled": self.labeled.pack(),
            "champion": str(self.champion),
            "base": str(self.base),
            "head": self.head_choice,
            "digests": list(self.digests),
        }

    @classmethod
    def unpack(cls, packed: dict[str, Any]) -> "TrainingData":
        """What was packed."""
        return cls(
            Labeled.unpack(packed["labeled"]),
            UUID(packed["champion"]),
            UUID(packed["base"]),
            packed["head"],
            packed["digests"],
        )


def gather(
    context: JobContext, packed: dict[str, Any] | None, *, pool: bool = False
) -> TrainingData:
    """What a job learns from: as it was packed, or as the project is now.

    Args:
        pool: with the images that have no label.
    """
    if packed is not None:
        return TrainingData.unpack(packed)

    def read() -> TrainingData:
        with context.db.reading() as session:
            project = session.get_one(Project, context.project_id)
            labeled = labeled_images(session, project.id)
            champion, head = project.encoder_id, project.head
            query = select(Image.sha256).where(Image.project_id == project.id).order_by(Image.id)
            digests = list(session.scalars(query)) if pool else []
        return TrainingData(labeled, champion, context.versions.base(champion), head, digests)

    return context.through_outages(read)


def labeled_images(session: Session, project_id: UUID) -> Labeled:
    """The labeled images of a project, in the order in which they came."""
    rows = session.execute(
        select(Image.id, Image.sha256, Label.id, Label.name)
        .join(Label, Label.id == Image.label_id)
        .where(Image.project_id == project_id)
        .order_by(Image.id)
    )
    return Labeled([Example(*row) for row in rows])


def labels_fingerprint(session: Session, project: Project) -> str:
    """What a training on the project's labels depends on; the same while none of it changes."""
    fingerprint = sha256(str(project.encoder_id).encode())
    for example in labeled_images(session, project.id).examples:
        fingerprint.update(example.image_id.bytes + example.label_id.bytes)
    return fingerprint.hexdigest()


def check_enough(session: Session, project: Project) -> None:
    """Refuse a project that has too few labels or images to learn from and to judge with.

    Raises:
        TooFewImages: says how many are missing.
    """
    rows = session.execute(
        select(Label.name, func.count(Image.id))
        .outerjoin(Image, Image.label_id == Label.id)
        .where(Label.project_id == project.id)
        .group_by(Label.id, Label.name)
        .order_by(Label.name)
    )
    shots: dict[str, int] = {row[0]: row[1] for row in rows}
    short = {name: FEWEST - count for name, count in shots.items() if count < FEWEST}
    missing_labels = max(0, FEWEST - len(shots))
    if not missing_labels and not short:
        return
    parts = [f"{missing_labels} more label(s)"] if missing_labels else []
    parts += [f"{count} more image(s) of {name!r}" for name, count in list(short.items())[:5]]
    if len(short) > 5:
        parts.append(f"and images of {len(short) - 5} other labels")
    raise TooFewImages(
        f"training needs {', '.join(parts)}: at least {FEWEST} labels with {FEWEST} images each",
        missing_labels=missing_labels,
        missing_images=short,
    )
