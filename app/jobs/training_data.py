"""The labeled images of a project, decoded for training."""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import torch
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from torch import Tensor

from app.problems import TooFewImages
from app.sql.tables import Image, Label, Project
from app.storage.blobs import Blobs
from models.images import Preprocessing, UnreadableImage, decode

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
        known = {example.label_id: example.label for example in self.examples}
        return [known[label] for label in self.labels]

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


def labeled_images(session: Session, project_id: UUID) -> Labeled:
    """The labeled images of a project, in the order in which they came."""
    rows = session.execute(
        select(Image.id, Image.sha256, Label.id, Label.name)
        .join(Label, Label.id == Image.label_id)
        .where(Image.project_id == project_id)
        .order_by(Image.id)
    )
    return Labeled([Example(*row) for row in rows])


def snapshot(session: Session, project: Project) -> str:
    """What a training on the project's labels depends on; the same while none of it changes."""
    known = sha256(str(project.encoder_id).encode())
    for example in labeled_images(session, project.id).examples:
        known.update(example.image_id.bytes + example.label_id.bytes)
    return known.hexdigest()


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


class DecodedImages:
    """Images by position, decoded by threads; as many stay decoded as fit into memory.

    Pillow lets other threads run while it decodes, so threads do what processes would, without
    copying pixels between them.
    """

    def __init__(
        self,
        blobs: Blobs,
        digests: Iterable[str],
        preprocessing: Preprocessing,
        *,
        max_pixels: int,
        cache_bytes: int,
        threads: int = 0,
    ) -> None:
        self._blobs = blobs
        self._digests = list(digests)
        self._preprocessing = preprocessing
        self._max_pixels = max_pixels
        self._room = cache_bytes // (3 * preprocessing.crop**2)  # images
        self._kept: dict[int, Tensor] = {}
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "training-decode")

    def __len__(self) -> int:
        return len(self._digests)

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        return torch.stack(list(self._pool.map(self._one, positions.tolist())))

    def unreadable(self) -> list[int]:
        """The positions of images that cannot be decoded any more."""
        return [
            n for n, fine in enumerate(self._pool.map(self._reads, range(len(self)))) if not fine
        ]

    def only(self, positions: list[int]) -> "DecodedImages":
        """These images alone, with what is decoded already."""
        digests = [self._digests[n] for n in positions]
        part = DecodedImages(
            self._blobs,
            digests,
            self._preprocessing,
            max_pixels=self._max_pixels,
            cache_bytes=self._room * 3 * self._preprocessing.crop**2,
        )
        part._kept = {new: self._kept[n] for new, n in enumerate(positions) if n in self._kept}
        return part

    def _reads(self, position: int) -> bool:
        try:
            self._one(position)
        except (UnreadableImage, FileNotFoundError):
            return False
        return True

    def _one(self, position: int) -> Tensor:
        if position in self._kept:
            return self._kept[position]
        content = self._blobs.get(self._digests[position])
        pixels = decode(content, self._preprocessing, max_pixels=self._max_pixels).pixels
        if len(self._kept) < self._room:
            self._kept[position] = pixels
        return pixels
