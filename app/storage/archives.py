"""Archives of clients: zips written as a stream, and members read within limits, never extracted.

A name in an archive never becomes a path on this machine.
"""

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, Any, cast

from app.problems import ArchiveMemberRefused, ArchiveRefused, FileTooLarge, Problem
from app.settings import UploadLimits

COPY_BYTES = 1 << 20
THEN = (1980, 1, 1, 0, 0, 0)  # the same content makes the same archive
# What unpacking raises on bytes that are not what they claim to be; `OSError` comes from bzip2 and
# gzip, `MemoryError` where LZMA would need more than there is.
DAMAGES = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(NotImplementedError, ValueError, OverflowError, MemoryError),
)
DIRECTORY_BYTES = 512  # of a zip, for each file that it may have; a name of 400 characters fits
ENTRY = b"PK\x01\x02"  # with which each begins there


class ZipStream:
    """A zip that is sent while it is written; in memory are one block and a line for each member.

    Members are deflated, images at level 0: a reader that cannot seek needs to see where a
    member ends, and a stored one does not tell.
    """

    def __init__(self) -> None:
        self._sink = Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)

    def add(self, name: str, content: bytes) -> None:
        """A member that is compressed already, such as an image."""
        self._zip.writestr(_member(name), content, compresslevel=0)

    def copy(self, name: str, file: IO[bytes]) -> Iterator[bytes]:
        """A member from the start of an open file, and what can be sent meanwhile."""
        member = _member(name)
        member.file_size = file.seek(0, 2)  # makes room for the length of a very large one
        file.seek(0)
        with self._zip.open(member, "w") as out:
            while block := file.read(COPY_BYTES):
                out.write(block)
                yield self.drain()

    def close(self) -> bytes:
        """The directory at the end."""
        self._zip.close()
        return self.drain()

    def drain(self) -> bytes:
        """What was written since the last time."""
        return self._sink.drain()


class Sink:
    """Takes what a writer that cannot seek writes, until it is sent."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, content: Any) -> int:
        self._parts.append(bytes(content))
        return len(self._parts[-1])

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def drain(self) -> bytes:
        """What was written since the last time."""
        content = b"".join(self._parts)
        self._parts.clear()
        return content


class Members:
    """The files in a zip, read one at a time by name."""

    def __init__(self, file: IO[bytes], limits: UploadLimits) -> None:
        """Look at the directory of a zip.

        Raises:
            ArchiveRefused: it is damaged, or has too many members.
        """
        self.limits = limits
        self._room = limits.archive_bytes
        with readable():
            directory = _Directory(file, limits.archive_files)
            self._zip = zipfile.ZipFile(cast(IO[bytes], directory))
            self._zip.fp = file  # the directory was read
        self.infos = [
            m for m in self._zip.infolist() if not m.is_dir() and not is_litter(m.filename)
        ]
        self._named = {member.filename: member for member in self.infos}

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __contains__(self, name: object) -> bool:
        return name in self._named

    def read(self, member: zipfile.ZipInfo | str) -> bytes:
        """The content of one member that is an image.

        Raises:
            ArchiveMemberRefused: it is not a plain file, or damaged.
            FileTooLarge: it is larger than a file may be.
            ArchiveRefused: all that was read is more than an archive may have.
        """
        info = self._named[member] if isinstance(member, str) else member
        if complaint := _zip_complaint(info):
            raise ArchiveMemberRefused(f"the archive member {info.filename!r} {complaint}")
        with (
            readable(ArchiveMemberRefused, f"the archive member {info.filename!r}"),
            self._zip.open(info) as file,
        ):
            content = file.read(self.limits.file_bytes + 1)
        self._room -= len(content)
        check_room(self._room, self.limits)
        if len(content) > self.limits.file_bytes:
            raise too_large(self.limits)
        return content

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One member to be read in part.

        Raises:
            ArchiveRefused: it is not a plain file, damaged, or larger than an archive may be.
        """
        member = self._named[name]
        if complaint := _zip_complaint(member):
            raise ArchiveRefused(f"the archive member {name!r} {complaint}")
        check_room(self.limits.archive_bytes - member.file_size, self.limits)
        with readable(), self._zip.open(member) as file:
            yield file


class _Directory:
    """A zip while its directory is read, which is refused before it is parsed if it is too large.

    What the end of a zip says of the number of its members need not be so, thus they are counted.
    """

    def __init__(self, file: IO[bytes], files: int) -> None:
        self._file = file
        self._files = files
        self.seek, self.tell, self.seekable = file.seek, file.tell, lambda: True

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES * (self._files + 1):
            raise ArchiveRefused(f"the archive has a directory of {size} bytes; send it in parts")
        content = self._file.read(size)
        members = content.count(ENTRY)
        if members > self._files:
            raise ArchiveRefused(
                f"the archive has {members} files and folders; {self._files} are allowed"
            )
        return content


@contextmanager
def readable(refusal: type[Problem] = ArchiveRefused, what: str = "the archive") -> Iterator[None]:
    """Refuse what is damaged, whatever its compression; an error of our own disk is none of it.

    Raises:
        Problem: of the kind `refusal`, with the reason.
    """
    try:
        yield
    except DAMAGES as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = str(error) or type(error).__name__
        raise refusal(f"{what} cannot be unpacked: {reason}") from error


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, THEN)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    return member


def _zip_complaint(member: zipfile.ZipInfo) -> str | None:
    """Why a member of a zip is not read."""
    complaint = name_complaint(member.filename)
    mode = member.external_attr >> 16
    if complaint is None and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        complaint = "is a link or a device, not a file"
    if complaint is None and member.flag_bits & 1:
        complaint = "is encrypted: send it without a password"
    return complaint


def name_complaint(name: str) -> str | None:
    """Why a member of that name is not read."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return "has a name that leaves the archive: pack it with relative names"
    return None


def is_litter(name: str) -> bool:
    """Whether a member is what an operating system leaves behind, not what somebody packed."""
    parts = PurePosixPath(name).parts
    return bool(parts) and (
        "__MACOSX" in parts or parts[-1] in {".DS_Store", "Thumbs.db", "desktop.ini"}
    )


def check_room(room: int, limits: UploadLimits) -> None:
    """Raise when an archive unpacks to more than is allowed, with `room` bytes left of that.

    Raises:
        ArchiveRefused: says how many bytes are allowed.
    """
    if room < 0:
        raise ArchiveRefused(
            f"the archive unpacks to more than {limits.archive_bytes} bytes; send it in parts"
        )


def too_large(limits: UploadLimits) -> FileTooLarge:
    """What is said of a file that is larger than one may be."""
    return FileTooLarge(f"the file is larger than {limits.file_bytes} bytes: send a smaller one")


def printable_name(name: str | None) -> str | None:
    """A client's file name, safe to keep and to show: the last 255 printable characters."""
    if name is None:
        return None
    return "".join(islice((c for c in name[-255:] if c.isprintable()), 255)) or None
