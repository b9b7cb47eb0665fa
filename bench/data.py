"""What benchmarks learn from: folders of photos, their embeddings, and draws of support."""

import functools
import hashlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from app.cli.demo import write_digits
from bench.harness import Options
from handful.folders import scan
from models.encoders.specs import parse
from models.heads import center_and_normalize
from models.images import Preprocessing, decode

BATCH = 8  # images at a time: what suits the processor's cache
EMBEDDINGS = Path(tempfile.gettempdir()) / "handful-embeddings"
LARGE = (4000, 3000)  # pixels


class Photo(NamedTuple):
    """An image file and its true label."""

    path: Path
    label: str


class DataSet(NamedTuple):
    """Images to draw support from and images to judge with, as embeddings or pixels."""

    name: str
    train: Tensor  # float16 (M, D), or uint8 (M, 3, S, S)
    targets: Tensor  # (M,)
    test: Tensor
    test_targets: Tensor

    @property
    def labels(self) -> list[int]:
        """Of the training images, in order."""
        return sorted(set(self.targets.tolist()))

    @property
    def mean(self) -> Tensor:
        """Of the training images, (D,)."""
        return self.train.double().mean(dim=0).float()


class Draw(NamedTuple):
    """Images of a data set to learn from, and to judge with."""

    data: DataSet
    cell: str  # what draws have in common that count together
    shots: int
    support: Tensor  # rows of the training images
    targets: Tensor  # their classes
    queries: Tensor  # rows of the test images
    truth: Tensor  # their classes; -1 where it has no support

    def question(self, heads: Sequence[str]) -> dict[str, Any]:
        """What peers get: vectors of unit length, without the mean of the training images."""
        support = center_and_normalize(self.data.train[self.support], self.data.mean)
        queries = center_and_normalize(self.data.test[self.queries], self.data.mean)
        return {
            "heads": heads,
            "support": support.numpy(),
            "queries": queries.numpy(),
            "targets": self.targets.numpy(),
        }


def draw_classes(
    data: DataSet,
    cell: str,
    shots: int | Sequence[int],
    labels: list[int],
    generator: np.random.Generator,
    *,
    all_queries: bool = False,
) -> Draw:
    """A draw of some classes; test images of others are left out unless all are wanted."""
    support, targets = draw_shots(data.targets, shots, generator, labels)
    places = {label: place for place, label in enumerate(labels)}
    truth = torch.tensor([places.get(label, -1) for label in data.test_targets.tolist()])
    queries = torch.arange(len(truth)) if all_queries else (truth >= 0).nonzero().squeeze(1)
    each = shots if isinstance(shots, int) else 0
    return Draw(data, cell, each, support, targets, queries, truth[queries])


def split(folder: Path) -> tuple[list[Photo], list[Photo]]:
    """The images of the folders `train` and `test`, or two random thirds and the other."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _photos(folder / "train"), _photos(folder / "test")
    images = _photos(folder)
    shuffled = np.random.default_rng(0).permutation(len(images))
    rows = np.split(shuffled, [len(images) - len(images) // 3])
    train, test = ([images[row] for row in sorted(part)] for part in rows)
    return train, test


def targets_of(images: Sequence[Photo], train: Sequence[Photo]) -> Tensor:
    """The place of each label among those of the training images in order."""
    labels = sorted({image.label for image in train})
    return torch.tensor([labels.index(image.label) for image in images])


@functools.cache
def decoded(folder: Path, preprocessing: Preprocessing) -> DataSet:
    """The images of a folder of class folders, as pixels."""
    return _data_set(folder, lambda paths: _pixels(paths, preprocessing))


@functools.cache
def embedded(folder: Path | None, encoder: str) -> DataSet:
    """The same as the service embeds them; computed once and kept in a temporary folder.

    Without a folder they are the 1,797 handwritten digits of scikit-learn, a third to judge with.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return embedded(write_digits(Path(name) / "digits"), encoder)
    return _data_set(folder, lambda paths: _embeddings(paths, encoder))


def data_sets(options: Options) -> list[DataSet]:
    """The digits and the folders that `--images` names, embedded by `--encoder`."""
    return [embedded(folder, options.encoder) for folder in (None, *options.images)]


def draw_shots(
    targets: Tensor,
    shots: int | Sequence[int],
    seed: int | np.random.Generator,
    labels: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows of images of some labels (None: all), and the places of their labels.

    Args:
        shots: of each label, at most.
    """
    generator = np.random.default_rng(seed)
    labels = range(int(targets.max()) + 1) if labels is None else labels
    most = [shots] * len(labels) if isinstance(shots, int) else shots
    members = [np.flatnonzero(targets.numpy() == label) for label in labels]
    counts = [min(n, len(rows)) for n, rows in zip(most, members, strict=True)]
    draws = [generator.choice(*pair, replace=False) for pair in zip(members, counts, strict=True)]
    places = torch.arange(len(labels)).repeat_interleave(torch.tensor(counts))
    return torch.from_numpy(np.concatenate(draws)), places


def made_up(
    images: int, dimensions: int, labels: int, *, shots: int, noise: float
) -> tuple[Tensor, Tensor]:
    """Embeddings, float16, around a random centre for each label, and the place of their label.

    Args:
        shots: how many of each label the last ones are; the others are by chance.
        noise: mean distance to the centre, before all have unit length.
    """
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(labels, dimensions, generator=generator), dim=1)
    targets = torch.randint(labels, (images,), generator=generator)
    targets[images - labels * shots :] = torch.arange(labels).repeat_interleave(shots)
    embeddings = torch.empty(images, dimensions, dtype=torch.float16)
    for rows in torch.split(torch.arange(images), 16_384):
        offsets = noise * torch.randn(len(rows), dimensions, generator=generator) / dimensions**0.5
        embeddings[rows] = F.normalize(centres[targets[rows]] + offsets, dim=1).half()
    return embeddings, targets


def large_photos(count: int) -> list[bytes]:
    """JPEGs of twelve megapixels as a phone takes them."""
    pictures = sample_pictures()
    generator = np.random.default_rng(0)
    photos = []
    for n in range(count):
        picture = pictures[n % len(pictures)].resize(LARGE, Image.Resampling.BICUBIC)
        grain = generator.normal(0, 4, (LARGE[1], LARGE[0], 1))
        photos.append(encoded(np.asarray(picture) + grain, "JPEG", quality=90))
    return photos


def sample_pictures() -> list[Image.Image]:
    """scikit-learn's two photos."""
    return [Image.fromarray(picture) for picture in load_sample_images().images]


def noise(seed: int, side: int) -> bytes:
    """A picture like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encoded(pixels, "PNG")


def encoded(picture: Any, kind: str, **options: Any) -> bytes:
    """An image file of a picture, or of pixels from 0 to 255."""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _data_set(folder: Path, tensor: Callable[[Sequence[Path]], Tensor]) -> DataSet:
    train, test = split(folder)
    columns = []
    for part in (train, test):
        columns += [tensor([image.path for image in part]), targets_of(part, train)]
    return DataSet(folder.resolve().name, *columns)


def _photos(folder: Path) -> list[Photo]:
    return [Photo(path, label) for path, label in scan(folder) if label]


def _pixels(paths: Sequence[Path], preprocessing: Preprocessing) -> Tensor:
    return torch.stack([decode(path.read_bytes(), preprocessing).pixels for path in paths])


def _embeddings(paths: Sequence[Path], encoder: str) -> Tensor:
    digest = hashlib.sha256(encoder.encode())
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    file = EMBEDDINGS / f"{digest.hexdigest()[:16]}.pt"
    if not file.exists():
        EMBEDDINGS.mkdir(exist_ok=True)
        architecture = parse(encoder)[1].build().eval()
        batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
        pixels = (_pixels(batch, architecture.preprocessing) for batch in batches)
        partial = file.with_suffix(".partial")
        torch.save(torch.cat([architecture.embed(part) for part in pixels]).half(), partial)
        partial.rename(file)
    embeddings: Tensor = torch.load(file, weights_only=True)
    return embeddings
