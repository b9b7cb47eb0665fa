"""Files that others may read while they are written."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads sees the old content or the new, and never a part.

    Raises:
        OSError: there is no room, or its folder cannot be written to.
    """
    with staged(path.parent) as folder:
        (folder / path.name).write_bytes(content)


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A new folder whose files take their places in `folder` once all of them are written.

    They do so in the order of their names, and none where an exception leaves the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir()):
            file.replace(folder / file.name)
