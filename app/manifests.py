"""Manifests: what is said of each image of a project, alone or in a zip with the image files."""

import base64
import binascii
import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, ClassVar, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from app.archives import Limits, Members, ZipStream, shown, too_large
from app.problems import ImageNotDecodable, ImportRefused, InvalidRequest, Problem

SPOOL_BYTES = 1 << 20  # a manifest larger than this waits on disk until the images are packed
DOCUMENT_BYTES = 64 << 20  # JSON documents are parsed in memory
LABELS = "labels.txt"  # in a zip: every label, in order, also those without images
STEM_BYTES = 100  # of a file's or folder's name in a zip
SUFFIXES = {"image/jpeg": "jpg", "image/tiff": "tif"}
IMAGE_KEYS = ("image", "file_name", "path", "url", "filename")  # first found says where it is
OUR_URL = re.compile(r"/images/([0-9a-f-]{36})/content$")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before a file name


class Suggested(NamedTuple):
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
    suggestions: Sequence[Suggested]  # likeliest first; for images without a label, if asked for


class Unreadable(Exception):
    """The file of an image cannot be read any more; the message says why."""


@dataclass(frozen=True)
class Export:
    """What a format writes."""

    project_id: UUID
    labels: Sequence[str]  # in order of creation
    rows: Callable[[], Iterator[Row]]
    content: Callable[[Row], bytes]  # the image file; raises Unreadable


class Placed(NamedTuple):
    """An image and where its file is."""

    row: Row
    image: str | None  # a URL, or a path in the same archive
    missing: str | None  # why there is none

    def record(self) -> dict[str, Any]:
        """What is said of the image, as flat JSON-ready data."""
        row = self.row
        likeliest = row.suggestions[0] if row.suggestions else None
        return {
            "image": self.image,
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

    def render(self, export: Export, images: Iterable[Placed]) -> Iterator[str]:
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
            Placed(row, f"{base}/v1/projects/{export.project_id}/images/{row.id}/content", None)
            for row in export.rows()
        )
        return (part.encode() for part in self.render(export, urls))


def json_lines(images: Iterable[Placed]) -> Iterator[str]:
    """A JSON object a line, with every suggestion."""
    for placed in images:
        record = placed.record()
        record["probabilities"] = {s.label: s.probability for s in placed.row.suggestions}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def pack(
    export: Export,
    name: str,
    render: Callable[[Iterator[Placed]], Iterator[str]],
    path: Callable[[Row], str],
) -> Iterator[bytes]:
    """A zip of the image files, and of what `render` says of them under `name`, in parts."""
    archive = ZipStream()
    archive.add(LABELS, "".join(f"{label}\n" for label in export.labels).encode())
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as spool:
        for part in render(_packed(export, archive, path)):
            spool.write(part.encode())
            yield archive.drain()
        yield from archive.copy(name, spool)
    yield archive.close()


def _packed(export: Export, archive: ZipStream, path: Callable[[Row], str]) -> Iterator[Placed]:
    for row in export.rows():
        try:
            content = export.content(row)
        except Unreadable as reason:
            yield Placed(row, None, str(reason))
            continue
        archive.add(path(row), content)
        yield Placed(row, path(row), None)


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


class Source:
    """A file to import, perhaps a zip."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        """Look at the start of a file, and if it is a zip at its directory.

        Raises:
            ArchiveRefused: it is a damaged zip, or one of too many members.
        """
        self.file = file
        self.limits = limits
        file.seek(0)
        self.start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        file.seek(0)
        self.members = Members(file, limits) if self.start[:2] == b"PK" else None
        self._folder = ""  # in which the manifest is

    def names(self, suffix: str) -> list[str]:
        """The members of a zip that end so."""
        return [name for name in self.members or () if name.lower().endswith(suffix)]

    def text_start(self, suffix: str) -> bytes | None:
        """The start of the one text file of that suffix, or of the file that is no zip."""
        if self.members is None:
            return self.start
        names = self.names(suffix)
        if len(names) != 1:
            return None
        with self.members.open(names[0]) as file:
            return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()

    @contextmanager
    def text(self, suffix: str) -> Iterator[IO[bytes]]:
        """The one text file of that suffix, or the file itself if it is no zip.

        Raises:
            ImportRefused: there is none, or there are several.
        """
        if self.members is None:
            self.file.seek(0)
            yield self.file
            return
        names = self.names(suffix)
        if len(names) != 1:
            raise ImportRefused(f"the zip has {len(names)} files that end in {suffix}: send one")
        self._folder = names[0].rpartition("/")[0]
        with self.members.open(names[0]) as file:
            yield file

    def document(self) -> Any:
        """The JSON document.

        Raises:
            ImportRefused: it is too large, or no JSON.
        """
        with self.text(".json") as file:
            content = file.read(DOCUMENT_BYTES + 1)
        if len(content) > DOCUMENT_BYTES:
            raise ImportRefused(
                f"the JSON document is larger than {DOCUMENT_BYTES} bytes: send it in parts, or as "
                "JSON lines, which have no limit"
            )
        return parse(content)

    def labels(self) -> list[str]:
        """The labels that a zip of ours names."""
        if self.members is None or LABELS not in self.members:
            return []
        content = self.members.read(LABELS)
        return [line for line in decoded(content).split("\n") if line]

    def find(self, path: str) -> str | None:
        """The member of a zip that a manifest means."""
        if self.members is None:
            return None
        path = path.replace("\\", "/").removeprefix("./")
        places = (self._folder, f"{self._folder}/images".lstrip("/"), "", "images")
        names = [f"{place}/{path}".lstrip("/") for place in places]
        return next((name for name in names if name in self.members), None)

    def lines(self, file: IO[bytes]) -> Iterator[Entry]:
        """What JSON lines say of images.

        Raises:
            ImportRefused: a line is longer than any image could make it.
        """
        longest = 2 * self.limits.file_bytes + (1 << 16)
        while line := file.readline(longest):
            if len(line) == longest:
                raise ImportRefused(f"a line is longer than {longest} bytes")
            if not line.strip():
                continue
            try:
                record = parse(line)
            except Problem as problem:
                yield Entry(None, None, None, problem)
            else:
                yield self.entry(record)

    def entry(self, record: Any, content: bytes | None = None) -> Entry:
        """What a manifest says of one image, with its content if that is in the file."""
        name: str | None = None
        try:
            if not isinstance(record, Mapping):
                raise InvalidRequest(f"{str(record)[:80]!r} is not an object with fields")
            image = next((v for k in IMAGE_KEYS if (v := _text(record, k))), None)
            name = _text(record, "filename") if "filename" in record else _basename(image)
            digest = _text(record, "sha256") or ""
            return Entry(
                name=shown(name),
                label=_text(record, "label"),
                annotator=_text(record, "annotator"),
                content=self._content(image, content),
                sha256=digest.lower() if SHA256.fullmatch(digest) else None,
                id=_uuid(_text(record, "id")) or _uuid_in(image),
                filenames=_filenames(name, image),
                missing=_text(record, "missing"),
            )
        except Problem as problem:
            return Entry(shown(name), None, None, problem)

    def _content(self, image: str | None, content: bytes | None) -> bytes | None:
        if content is not None or image is None:
            if len(content or b"") > self.limits.file_bytes:
                raise too_large(self.limits)
            return content
        if image.startswith("data:"):
            return self._data(image)
        member = self.find(image)
        return self.members.read(member) if self.members and member else None

    def _data(self, url: str) -> bytes:
        head, _, data = url.partition(",")
        if not head.endswith(";base64"):
            raise ImageNotDecodable("a data: URL has no base64: write data:image/png;base64,…")
        if len(data) * 3 // 4 > self.limits.file_bytes + 3:
            raise too_large(self.limits)
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageNotDecodable(f"a data: URL cannot be decoded: {error}") from error


def parse(content: bytes) -> Any:
    """A JSON document.

    Raises:
        ImportRefused: it is none.
    """
    try:
        return json.loads(decoded(content))
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"the file is not JSON: {error}") from error


def decoded(content: bytes) -> str:
    """Text in UTF-8, with or without a byte order mark.

    Raises:
        ImportRefused: it is not.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImportRefused(f"the file is not text in UTF-8: {error}") from error


def _text(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{key} is {str(value)[:80]!r}: write a text")
    return value or None


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None  # an id of another tool


def _uuid_in(image: str | None) -> UUID | None:
    found = OUR_URL.search(image or "")
    return _uuid(found[1]) if found else None


def _basename(image: str | None) -> str | None:
    if image is None or image.startswith("data:"):
        return None
    try:
        address = urlsplit(image)
    except ValueError:
        return None
    path = address.path if address.scheme or image.startswith("/") else image
    if local := parse_qs(address.query).get("d") if path.startswith("/data/local-files") else None:
        path = local[0]
    if OUR_URL.search(path):
        return None
    name = PurePosixPath(path.replace("\\", "/")).name
    return unquote(name) if path is not image else name


def _filenames(name: str | None, image: str | None) -> Sequence[str]:
    """What the project may call the image."""
    base = _basename(image)
    names = [name, base, UPLOADED.sub("", base) if base else None]
    return [n for n in dict.fromkeys(map(shown, names)) if n]
