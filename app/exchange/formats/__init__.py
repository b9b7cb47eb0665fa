"""Formats: projects to files that other tools read, and back; one format per file."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from app.exchange.reader import ImportSource
from app.exchange.records import Contents, Export
from app.problems import ImportRefused
from models.registry import Registry


@runtime_checkable
class Format(Protocol):
    """A frozen dataclass of what can be chosen when writing; reading needs nothing of it."""

    @property
    def media_type(self) -> str: ...

    @property
    def suffix(self) -> str: ...  # of the file, with its dot

    def write(self, export: Export) -> Iterator[bytes]:
        """The file in parts; never more than a few images are in memory.

        Raises:
            FormatUnavailable: before the first part: something is not installed.
        """
        ...

    def recognises(self, source: ImportSource) -> bool:
        """Whether a file looks like this format."""
        ...

    def read(self, source: ImportSource) -> Contents:
        """The images of a file, one at a time; one that cannot be read says so in its entry.

        Raises:
            ImportRefused: the file is not of this format; also while it is read.
            FormatUnavailable: something is not installed.
        """
        ...


formats: Registry[type[Any]] = Registry(__name__)


def recognise(source: ImportSource) -> str:
    """The name of the format that a file looks like.

    Raises:
        ImportRefused: none.
    """
    for name, kind in formats.items():
        form: Format = kind()
        if form.recognises(source):
            return name
    raise ImportRefused(
        f"the file looks like none of {', '.join(formats)}; if it is one, name it with ?format="
    )
