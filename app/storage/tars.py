"""Tars of clients, read block by block within limits: whatever a header declares is not believed.

`tarfile` reads long names and extended headers whole, keeps every member, and may not come to an
end on a size below zero; only its reading of a single header block is used here.
"""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

from app.problems import ArchiveMemberRefused, ArchiveRefused, FileTooLarge
from app.settings import UploadLimits
from app.storage.archives import check_room, is_litter, name_complaint, readable, too_large

BLOCK = tarfile.BLOCKSIZE
SKIP_BYTES = 1 << 18
EXTENSION_BYTES = 1 << 20  # of all headers before a member that say more about it
XZ_BYTES = 100 << 20  # memory to unpack one; `xz -9` asks for 65 MiB
LONG_NAME = tarfile.GNUTYPE_LONGNAME
PAX = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}
EXTENSIONS = {LONG_NAME, *PAX, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE}
DATALESS = {
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
}
SIGNATURES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")  # of what a tar may be compressed by


class TarMember(NamedTuple):
    """A file in a tar: its content, or why that was not read."""

    name: str
    content: bytes | ArchiveMemberRefused | FileTooLarge


def is_tar(start: bytes) -> bool:
    """Whether a file that starts so is a tar, or may be a compressed one."""
    return start.startswith(SIGNATURES) or start[257:262] == b"ustar"


def read_tar(archive: IO[bytes], limits: UploadLimits) -> Iterator[TarMember]:
    """The files of a tar, one after another.

    Raises:
        ArchiveRefused: it is damaged from there on, or passes a limit.
    """
    with readable():
        stream = _unpacked(archive)
        tar = _Tar(stream, limits)
        while (header := tar.next_header()) is not None:
            yield from tar.read(header)


class _Tar:
    """A tar at the place up to which it was read."""

    def __init__(self, stream: IO[bytes], limits: UploadLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._room = limits.archive_bytes
        self._members = 0  # folders and litter as well

    def next_header(self) -> tarfile.TarInfo | None:
        """The next member, named as the headers before it say; None at the end."""
        name, size, extension_room = None, None, EXTENSION_BYTES
        while (header := self._header()) is not None and header.type in EXTENSIONS:
            extension_room -= BLOCK + header.size
            if extension_room < 0:
                raise ArchiveRefused(
                    f"a member of the archive has more than {EXTENSION_BYTES} bytes of headers: "
                    "pack it without extended attributes"
                )
            self._take_room(header.size)
            content = self._read(header.size)
            self._skip(-header.size % BLOCK)
            if header.type == LONG_NAME:
                name = content.rstrip(b"\0").decode(errors="surrogateescape")
            elif header.type in PAX:
                records = _records(content)
                name, size = records.get("path", name), records.get("size", size)
                if any(key.startswith("GNU.sparse.") for key in records):
                    size = "sparse"
        if header is None:
            return None
        header.name = header.name if name is None else name
        if size is not None and size.isascii() and size.isdigit() and len(size) < 20:
            header.size = int(size)
        elif size is not None:
            header.type = tarfile.GNUTYPE_SPARSE
        self._members += 1
        if self._members > self._limits.archive_files:
            raise ArchiveRefused(
                f"the archive has more than {self._limits.archive_files} files and folders"
            )
        return header

    def read(self, header: tarfile.TarInfo) -> Iterator[TarMember]:
        """The member itself, unless it is a folder or litter; the stream is behind it then."""
        size = 0 if header.type in DATALESS else header.size
        self._take_room(size)  # what is skipped is unpacked as well
        rest = size + -size % BLOCK
        if not (header.isdir() or is_litter(header.name)):
            complaint = name_complaint(header.name)
            if complaint is None and header.type == tarfile.GNUTYPE_SPARSE:
                complaint = "is sparse: pack it whole"
            if complaint is None and not header.isreg():
                complaint = "is a link or a device, not a file"
            if complaint is not None:
                what = f"the archive member {header.name!r} {complaint}"
                yield TarMember(header.name, ArchiveMemberRefused(what))
            elif size > self._limits.file_bytes:
                yield TarMember(header.name, too_large(self._limits))
            else:
                rest -= size
                yield TarMember(header.name, self._read(size))
        self._skip(rest)

    def _header(self) -> tarfile.TarInfo | None:
        block = self._stream.read(BLOCK)
        if not block.strip(b"\0"):
            if not block and not self._members:
                raise ArchiveRefused("the archive cannot be read: it is empty")
            return None
        header = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        if header.size < 0:
            raise ArchiveRefused(f"a member of the archive has {header.size} bytes")
        return header

    def _take_room(self, size: int) -> None:
        self._room -= size
        check_room(self._room, self._limits)

    def _read(self, size: int) -> bytes:
        content = self._stream.read(size)
        if len(content) < size:
            raise EOFError("it ends within a member")
        return content

    def _skip(self, size: int) -> None:
        while size > 0:
            size -= len(self._read(min(size, SKIP_BYTES)))


def _records(content: bytes) -> dict[str, str]:
    """The keys and values of an extended header: `LENGTH KEY=VALUE`, ended by a line feed."""
    records, place = {}, 0
    while place < len(content):
        digits, blank, _ = content[place : place + 8].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = content[place + len(digits) + 1 : place + length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals:
            raise ArchiveRefused("the archive cannot be read: an extended header is damaged")
        records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        place += length
    return records


def _unpacked(archive: IO[bytes]) -> IO[bytes]:
    """The tar in a file, whatever it was compressed by."""
    archive.seek(0)
    start = archive.read(6)
    archive.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=archive, mode="rb"))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(archive)
    if start.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(cast(io.RawIOBase, _Xz(archive)), SKIP_BYTES)
    return archive


class _Xz(io.RawIOBase):
    """What an xz unpacks to, within bounded memory; `lzma.open` takes what the file asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._decoder.eof:
            packed = self._file.read(SKIP_BYTES) if self._decoder.needs_input else b""
            if not packed and self._decoder.needs_input:
                raise EOFError("the compressed file ends too early")
            content = self._decoder.decompress(packed, len(buffer))
            if content:
                buffer[: len(content)] = content
                return len(content)
        return 0
