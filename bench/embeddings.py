"""Embeddings of the data sets of the benchmarks, computed once and kept in a temporary folder."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from app.cli.demo import write_digits
from bench.few_shot import Photo, load
from models.encoders import Encoder
from models.encoders.specs import parse
from models.images import decode

BATCH = 8  # images at a time: what suits the processor's cache
FOLDER = Path(tempfile.gettempdir()) / "handful-embeddings"


class DataSet(NamedTuple):
    """Images to draw support from and images to judge with, embedded as the service does."""

    name: str
    train: Tensor  # (M, D), float16
    targets: Tensor  # (M,)
    test: Tensor  # (Q, D), float16
    test_targets: Tensor  # (Q,)


def digits(encoder: str) -> DataSet:
    """The 1,797 handwritten digits of scikit-learn, a random third of them to judge with."""
    with tempfile.TemporaryDirectory() as folder:
        return data_set(write_digits(Path(folder) / "digits"), encoder)


def data_set(folder: Path, encoder: str) -> DataSet:
    """The images of a folder of class folders, or of its folders `train` and `test`."""
    train, test = load(folder)
    kept = FOLDER / f"{_digest(encoder, [*train, *test])}.pt"
    if not kept.exists():
        FOLDER.mkdir(exist_ok=True)
        architecture = parse(encoder)[1].build().eval()
        vectors = [_embed(architecture, photos).half() for photos in (train, test)]
        half = kept.with_suffix(".partial")
        torch.save(vectors, half)
        half.rename(kept)
    names = sorted({photo.label for photo in train})
    targets = [torch.tensor([names.index(p.label) for p in photos]) for photos in (train, test)]
    vectors = torch.load(kept, weights_only=True)
    return DataSet(folder.resolve().name, vectors[0], targets[0], vectors[1], targets[1])


def draw_shots(
    data: DataSet, labels: Sequence[int], shots: int | Sequence[int], chance: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Rows of training images of each label, at most `shots`, and the place of their label."""
    most = [shots] * len(labels) if isinstance(shots, int) else shots
    support: list[int] = []
    targets: list[int] = []
    for target, label in enumerate(labels):
        members = np.flatnonzero(data.targets.numpy() == label)
        rows = chance.choice(members, min(most[target], len(members)), replace=False).tolist()
        support += rows
        targets += [target] * len(rows)
    return support, targets


def _digest(encoder: str, photos: Sequence[Photo]) -> str:
    digest = hashlib.sha256(encoder.encode())
    for photo in photos:
        digest.update(photo.label.encode() + hashlib.sha256(photo.path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _embed(encoder: Encoder, photos: Sequence[Photo]) -> Tensor:
    found = []
    for start in range(0, len(photos), BATCH):
        batch = [photo.path.read_bytes() for photo in photos[start : start + BATCH]]
        pixels = torch.stack([decode(one, encoder.preprocessing).pixels for one in batch])
        found.append(encoder.embed(pixels))
    return torch.cat(found)
