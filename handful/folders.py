"""A folder of images into a project of a running service."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from handful.client import Handful
from handful.contract.common import FailedRead
from handful.contract.labels import SupportAdded
from handful.contract.pool import PoolAdded
from handful.retries import RequestRefused

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
REQUEST_FILES = 32
REQUEST_BYTES = 32 << 20
CONNECTIONS = 4
FILES_REFUSED = {400, 413, 415, 422}  # these say something of the files, not of the service


class NothingToImport(ValueError):
    """The folder has no images."""


class FolderImage(NamedTuple):
    """An image file and the label that its folder gives it; without one it goes to the pool."""

    path: Path
    label: str | None


@dataclass
class ImportOutcome:
    """What became of the files."""

    added: int = 0
    known: int = 0
    other_label: int = 0  # known, and left with the label that they have
    paths: dict[UUID, Path] = field(default_factory=dict)  # by id of the image
    failed: list[tuple[Path, str]] = field(default_factory=list)


def scan(folder: Path, support: int | None = None) -> list[FolderImage]:
    """The images of a folder, in order of their names.

    A folder in it is a label, with all that lies below; images beside such folders have none.

    Args:
        support: how many images of each label keep it; None: all.

    Raises:
        NothingToImport: not a folder, or one without images.
    """
    if not folder.is_dir():
        raise NothingToImport(f"{folder} is neither a folder nor a file")
    sources = [FolderImage(path, None) for path in _images(folder.iterdir())]
    for below in sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p)):
        images = _images(below.rglob("*"))
        cut = len(images) if support is None else support
        sources += [
            FolderImage(path, below.name if n < cut else None) for n, path in enumerate(images)
        ]
    if not sources:
        raise NothingToImport(
            f"{folder} has no images: put {', '.join(sorted(SUFFIXES))} files into it, or into "
            "one folder for each label"
        )
    return sources


def upload(
    client: Handful,
    project: str,
    sources: Sequence[FolderImage],
    advance: Callable[[int], None],
    metadata: Mapping[str, str] | None = None,
) -> ImportOutcome:
    """Send images to a project; what it has already stays as it is.

    Args:
        advance: called with the number of files that were just answered.
        metadata: text by key, of all images.
    """
    report = ImportOutcome()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        batches = list(_batches(sources))
        try:
            for batch, answer in zip(
                batches,
                threads.map(lambda b: _send(client, project, b, metadata), batches),
                strict=True,
            ):
                _record(report, batch, answer)
                advance(len(batch))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return report


def _send(
    client: Handful, project: str, batch: Sequence[FolderImage], metadata: Mapping[str, str] | None
) -> SupportAdded | PoolAdded | str:
    """The service's answer, or why it refused all of the batch."""
    label = batch[0].label
    files = [source.path for source in batch]
    try:
        if label is None:
            return client.add_to_pool(project, files, metadata=metadata)
        return client.add_support(project, label, files, existing="keep", metadata=metadata)
    except RequestRefused as problem:
        if problem.status not in FILES_REFUSED:
            raise
        if not problem.failed:
            return str(problem)
        failed = [FailedRead.model_validate(failure) for failure in problem.failed]
        return PoolAdded(images=[], failed=failed)


def _record(
    report: ImportOutcome, batch: Sequence[FolderImage], answer: SupportAdded | PoolAdded | str
) -> None:
    if isinstance(answer, str):
        report.failed += [(source.path, answer) for source in batch]
        return
    for image in answer.images:
        report.added += image.created
        report.known += not image.created
        report.other_label += batch[0].label not in (None, image.label)
        report.paths[image.id] = batch[image.position].path
    for failed in answer.failed:
        report.failed.append((batch[failed.position].path, failed.problem.detail))


def _batches(sources: Iterable[FolderImage]) -> Iterator[list[FolderImage]]:
    """Requests of one label each, bounded in files and bytes."""
    for _, group in groupby(sources, key=lambda source: source.label):
        batch: list[FolderImage] = []
        size = 0
        for source in group:
            bytes_ = source.path.stat().st_size
            if batch and (len(batch) == REQUEST_FILES or size + bytes_ > REQUEST_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(source)
            size += bytes_
        yield batch


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path)
    )


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or "__MACOSX" in path.parts
