"""Records: what is said of each image of a project, alone or in a zip with the image files."""

import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from app.problems import Problem
from app.storage.archives import ZipStream

SPOOL_BYTES = 1 << 20  # a manifest larger than this waits on disk until the images are packed
LABELS = "labels.txt"  # in a zip: every label, in order, also those without images
STEM_BYTES = 100  # of a file's or folder's name in a zip
SUFFIXES = {"image/jpeg": "jpg", "image/tiff": "tif"}


class SuggestedLabel(NamedTuple):
    """A label that an image may have."""

    label: str
    probability: float


class Row(NamedTuple):
    """An image of a project, as exported."""

    id: UUID
    sha256: str
    filename: str | None
    media_type: str
    width: int  # pixels, upright
    height: int
    label: str | None
    annotator: str | None
    split: str | None
    # Likeliest first; for images without a label, if asked for.
    suggestions: Sequence[SuggestedLabel]


class Unreadable(Exception):
    """The file of an image cannot be read any more; the message says why."""


@dataclass(frozen=True)
class Export:
    """What a format writes."""

    project_id: UUID
    labels: Sequence[str]  # in order of creation
    rows: Callable[[], Iterator[Row]]
    content: Callable[[Row], bytes]  # the image file; raises Unreadable


class ManifestImage(NamedTuple):
    """An image and where its file is."""

    row: Row
    location: str | None  # a URL, or a path in the same archive
    missing: str | None  # why there is none

    def record(self) -> dict[str, Any]:
        """What is said of the image, as flat JSON-ready data."""
        row = self.row
        likeliest = row.suggestions[0] if row.suggestions else None
        return {
            "image": self.location,
            "id": str(row.id),
            "sha256": row.sha256,
            "filename": row.filename,
            "media_type": row.media_type,
            "width": row.width,
            "height": row.height,
            "label": row.label,
            "annotator": row.annotator,
            "split": row.split,
            "suggestion": likeliest.label if likeliest else None,
            "confidence": likeliest.probability if likeliest else None,
            "missing": self.missing,
        }


class Entry(NamedTuple):
    """An image of a file to import."""

    name: str | None  # to tell which one failed, and the image's file name
    label: str | None
    annotator: str | None
    content: bytes | Problem | None  # None: an image that the project should have, by these:
    sha256: str | None = None
    id: UUID | None = None
    filenames: Sequence[str] = ()
    missing: str | None = None  # why the export that wrote the file has no image


class Contents(NamedTuple):
    """What a file to import has."""

    labels: Sequence[str]  # also those without images
    entries: Iterator[Entry]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A format of one text file, or of one zip with the image files too."""

    images: bool = False  # Pack the image files too, in one zip; otherwise there are URLs.
    base_url: str = ""  # Put before the URLs, such as https://label.example.org.

    name: ClassVar[str]  # of the text file in a zip
    text_type: ClassVar[str]

    def render(self, export: Export, images: Iterable[ManifestImage]) -> Iterator[str]:
        """The text file, in parts; a part for each image at least."""
        raise NotImplementedError

    @property
    def media_type(self) -> str:
        return "application/zip" if self.images else self.text_type

    @property
    def suffix(self) -> str:
        return ".zip" if self.images else PurePosixPath(self.name).suffix

    def write(self, export: Export) -> Iterator[bytes]:
        """The file, in parts."""
        if self.images:
            return pack(export, self.name, lambda images: self.render(export, images), image_path)
        base = self.base_url.rstrip("/")
        urls = (
            ManifestImage(
                row, f"{base}/v1/projects/{export.project_id}/images/{row.id}/content", None
            )
            for row in export.rows()
        )
        return (part.encode() for part in self.render(export, urls))


def json_lines(images: Iterable[ManifestImage]) -> Iterator[str]:
    """A JSON object a line, with every suggestion."""
    for image in images:
        record = image.record()
        record["probabilities"] = {s.label: s.probability for s in image.row.suggestions}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def pack(
    export: Export,
    name: str,
    render: Callable[[Iterator[ManifestImage]], Iterator[str]],
    path: Callable[[Row], str],
) -> Iterator[bytes]:
    """A zip of the image files, and of what `render` says of them under `name`, in parts."""
    archive = ZipStream()
    archive.add(LABELS, "".join(f"{label}\n" for label in export.labels).encode())
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        for part in render(_add_images(export, archive, path)):
            spool.write(part.encode())
            yield archive.drain()
        yield from archive.copy(name, spool)
    yield archive.close()


def _add_images(
    export: Export, archive: ZipStream, path: Callable[[Row], str]
) -> Iterator[ManifestImage]:
    """Put each image into an archive, and then say where it is there."""
    for row in export.rows():
        try:
            content = export.content(row)
        except Unreadable as reason:
            yield ManifestImage(row, None, str(reason))
            continue
        archive.add(path(row), content)
        yield ManifestImage(row, path(row), None)


def image_path(row: Row) -> str:
    """Where an image is in a zip."""
    return f"images/{image_name(row)}"


def image_name(row: Row) -> str:
    """A file name that every system takes and no other image has."""
    stem = safe_name(PurePosixPath(row.filename or "").stem) or "image"
    suffix = SUFFIXES.get(row.media_type) or row.media_type.partition("/")[2]
    return f"{stem}-{row.sha256[:16]}.{suffix}"


def safe_name(name: str) -> str:
    """A name that can be a file or a folder on every system; empty if nothing is left."""
    plain = "".join(c if c.isalnum() or c in " -_." else "_" for c in name)
    cut = unicodedata.normalize("NFC", plain).encode()[:STEM_BYTES].decode(errors="ignore")
    return cut.strip(" .")
