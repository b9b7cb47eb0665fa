"""JSON Lines: an object for each image."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from app.exchange.formats import formats
from app.exchange.reader import ImportSource
from app.exchange.records import Contents, Entry, Export, Manifest, ManifestImage, json_lines


@formats.register
@dataclass(frozen=True, kw_only=True)
class Jsonl(Manifest):
    """A JSON object a line for each image, with URLs or in a zip with the image files.

    https://jsonlines.org
    """

    name: ClassVar[str] = "manifest.jsonl"
    text_type: ClassVar[str] = "application/jsonl"

    def render(self, export: Export, images: Iterable[ManifestImage]) -> Iterator[str]:
        return json_lines(images)

    def recognises(self, source: ImportSource) -> bool:
        start = source.text_start(".jsonl") or b""
        if "handful.jsonl" in (source.members or ()) or not start.startswith(b"{"):
            return False
        try:
            first = json.loads(start.partition(b"\n")[0])
        except ValueError:
            return len(start) > 1000 and b"\n" not in start  # one long line: an image within
        return "images" not in first or "annotations" not in first

    def read(self, source: ImportSource) -> Contents:
        return Contents(source.labels(), _entries(source))


def _entries(source: ImportSource) -> Iterator[Entry]:
    with source.text(".jsonl") as file:
        yield from source.lines(file)
