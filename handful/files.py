"""A project of a running service to a file, whole or not at all."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class CannotWrite(RuntimeError):
    """The export cannot be written as asked."""


def shares(words: Iterable[str]) -> dict[str, float] | None:
    """Splits from words such as `train=0.8`; None without any.

    Raises:
        CannotWrite: a word is not of that form.
    """
    splits = {}
    for word in words:
        name, _, share = word.partition("=")
        try:
            splits[name] = float(share)
        except ValueError:
            raise CannotWrite(f"--split {word!r} is not of the form train=0.8") from None
    return splits or None


@contextmanager
def replacing(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A file that appears under its name when it is complete; after an error nothing is left.

    Raises:
        CannotWrite: there is a file already and `force` is not given, or none can be written.
    """
    if not force and path.exists():
        raise CannotWrite(f"{path} exists: name another file, or overwrite it with --force")
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
