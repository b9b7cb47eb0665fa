"""Files to import, perhaps zips: their records, and the images that these mean."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from app.exchange.records import LABELS, Entry
from app.problems import ImageNotDecodable, ImportRefused, InvalidRequest, Problem
from app.settings import UploadLimits
from app.storage.archives import Members, printable_name, too_large

DOCUMENT_BYTES = 64 << 20  # JSON documents are parsed in memory
IMAGE_KEYS = ("image", "file_name", "path", "url", "filename")  # first found says where it is
OUR_URL = re.compile(r"/images/([0-9a-f-]{36})/content$")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")  # what Label Studio puts before a file name


class ImportSource:
    """A file to import, perhaps a zip."""

    def __init__(self, file: IO[bytes], limits: UploadLimits) -> None:
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
        return parse_json(content)

    def labels(self) -> list[str]:
        """The labels that a zip of ours names."""
        if self.members is None or LABELS not in self.members:
            return []
        content = self.members.read(LABELS)
        return [line for line in decode_text(content).split("\n") if line]

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
                record = parse_json(line)
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
                name=printable_name(name),
                label=_text(record, "label"),
                annotator=_text(record, "annotator"),
                content=self._content(image, content),
                sha256=digest.lower() if SHA256.fullmatch(digest) else None,
                id=_uuid(_text(record, "id")) or _uuid_in(image),
                filenames=_filenames(name, image),
                missing=_text(record, "missing"),
            )
        except Problem as problem:
            return Entry(printable_name(name), None, None, problem)

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


def parse_json(content: bytes) -> Any:
    """A JSON document.

    Raises:
        ImportRefused: it is none.
    """
    try:
        return json.loads(decode_text(content))
    except (ValueError, RecursionError) as error:
        raise ImportRefused(f"the file is not JSON: {error}") from error


def decode_text(content: bytes) -> str:
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
    match = OUR_URL.search(image or "")
    return _uuid(match[1]) if match else None


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
    return [n for n in dict.fromkeys(map(printable_name, names)) if n]
