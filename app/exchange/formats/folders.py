"""Class folders in a zip."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from app.exchange.formats import formats
from app.exchange.reader import ImportSource
from app.exchange.records import (
    LABELS,
    Contents,
    Entry,
    Export,
    Row,
    image_name,
    json_lines,
    pack,
    safe_name,
)
from app.problems import ImportRefused

UNLABELED = "unlabeled"  # the folder of images without a label
MANIFEST = "handful.jsonl"
RESERVED = {UNLABELED, MANIFEST, LABELS, "__macosx"}


@formats.register
@dataclass(frozen=True, kw_only=True)
class Folders:
    """A zip with a folder for each label, and one named `unlabeled`; within one for each split.

    What a folder's name cannot say is in `handful.jsonl` beside them.
    """

    media_type = "application/zip"
    suffix = ".zip"

    def write(self, export: Export) -> Iterator[bytes]:
        names = folder_names(export.labels)

        def path(row: Row) -> str:
            folder = UNLABELED if row.label is None else names[row.label]
            return "/".join(p for p in (row.split, folder, image_name(row)) if p)

        return pack(export, MANIFEST, json_lines, path)

    def recognises(self, source: ImportSource) -> bool:
        if source.members is None:
            return False
        return MANIFEST in source.members or not any(map(source.names, (".csv", ".json", ".jsonl")))

    def read(self, source: ImportSource) -> Contents:
        if source.members is None:
            raise ImportRefused("the file is not a zip")
        if MANIFEST in source.members:
            return Contents(source.labels(), _from_manifest(source))
        return Contents((), _from_folders(source))


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """A folder for each label, which differ also where upper and lower case do not."""
    used, names = set(RESERVED), {}
    for label in labels:
        plain = safe_name(label) or "label"
        name, number = plain, 2
        while name.casefold() in used:
            name, number = f"{plain}-{number}", number + 1
        used.add(name.casefold())
        names[label] = name
    return names


def _from_manifest(source: ImportSource) -> Iterator[Entry]:
    """The images that a manifest of ours names."""
    with source.members.open(MANIFEST) as file:  # type: ignore[union-attr]
        yield from source.lines(file)


def _from_folders(source: ImportSource) -> Iterator[Entry]:
    """Every file; the folder that it lies in is its label."""
    for name in source.members or ():
        path = PurePosixPath(name.replace("\\", "/"))
        folder = path.parent.name
        yield source.entry(
            {"image": name, "label": None if folder == UNLABELED else folder or None}
        )
