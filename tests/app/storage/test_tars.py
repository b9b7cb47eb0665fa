"""Tars are read within limits, whatever their headers declare."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from app.problems import ArchiveMemberRefused, ArchiveRefused, FileTooLarge
from app.settings import UploadLimits
from app.storage.tars import EXTENSION_BYTES, is_tar, read_tar

MIB = 1 << 20
LIMITS = UploadLimits(file_bytes=1000, files=10, archive_files=10, archive_bytes=4 * MIB)
LONG = "a/" * 150 + "ä.png"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info


def header(name: str, size: int, kind: bytes) -> bytes:
    return member(name, size, kind).tobuf(tarfile.USTAR_FORMAT)


def packed(*members: tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def read(content: bytes, limits: UploadLimits = LIMITS) -> list:
    return [(m.name, m.content) for m in read_tar(io.BytesIO(content), limits)]


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_files_are_read_by_their_whole_names(compress, format_):
    content = compress(packed(member(LONG, 513), member("b", 0), member("c", 9), format_=format_))

    assert is_tar(content)
    assert read(content) == [(LONG, b"x" * 513), ("b", b""), ("c", b"x" * 9)]


def test_a_file_that_is_too_large_or_none_fails_alone():
    link = member("link", kind=tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    sparse = member("sparse", 600)
    sparse.pax_headers = {"GNU.sparse.map": "0,1", "size": "600"}
    content = packed(member("large", 1001), link, member("../up", 3), sparse, member("good", 3))

    members = read(content)

    assert [(name, type(content)) for name, content in members] == [
        ("large", FileTooLarge),
        ("link", ArchiveMemberRefused),
        ("../up", ArchiveMemberRefused),
        ("sparse", ArchiveMemberRefused),
        ("good", bytes),
    ]


@pytest.mark.parametrize(
    "kind",
    [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE],
)
@pytest.mark.parametrize("size", [EXTENSION_BYTES + 1, (8 << 30) - 1])
def test_a_header_is_not_read_whole_whatever_it_declares(kind, size):
    packer = zlib.compressobj(1, wbits=31)
    bomb = packer.compress(header("x", size, kind)) + packer.compress(bytes(8 * MIB))
    tracemalloc.start()

    with pytest.raises(ArchiveRefused, match="bytes of headers"):
        read(bomb + packer.flush(), LIMITS)

    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()


def test_headers_without_a_member_come_to_an_end():
    chain = header("x", 0, tarfile.GNUTYPE_LONGNAME) * (EXTENSION_BYTES // 512 + 1)

    with pytest.raises(ArchiveRefused, match="bytes of headers"):
        read(chain)


# `tarfile` of Python 3.11.7 takes hours for the first, and gigabytes for the second.
@pytest.mark.parametrize("content", [b"1" * (MIB - 512), b"2 " * 300_000 + b"a=\n"])
def test_an_extended_header_of_nonsense_is_refused_at_once(content):
    content += bytes(-len(content) % 512)

    with pytest.raises(ArchiveRefused, match="extended header is damaged"):
        read(header("x", len(content), tarfile.XHDTYPE) + content)


def test_a_size_below_zero_is_refused():
    block = bytearray(header("x", 0, tarfile.REGTYPE))
    block[124:136] = b"\xff" * 11 + b"\x00"  # base 256
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)

    with pytest.raises(ArchiveRefused, match="has -256 bytes"):
        read(bytes(block) + bytes(1024))


def test_folders_and_litter_count_and_are_not_kept():
    folders = [member(f"{n}", kind=tarfile.DIRTYPE) for n in range(6)]
    litter = [member(f"{n}/.DS_Store", 5) for n in range(4)]

    assert read(packed(*folders, *litter)) == []
    with pytest.raises(ArchiveRefused, match="more than 10 files and folders"):
        read(packed(*folders, *litter, member("one more", kind=tarfile.DIRTYPE)))


def test_what_is_skipped_counts_as_unpacked():
    with pytest.raises(ArchiveRefused, match="unpacks to more than"):
        read(header("x", 5 * MIB, tarfile.REGTYPE))


@pytest.mark.parametrize(
    ("kind", "damage"), [("gzip", b""), ("bzip2", b""), ("xz", b""), ("bzip2", b"x"), ("xz", b"x")]
)
def test_a_damaged_compression_ends_with_the_reason(kind, damage):
    noise = bytes((n * n * 7919 >> 5) % 251 for n in range(200_000))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(member("noise", len(noise)), io.BytesIO(noise))
    content = COMPRESSIONS[kind](buffer.getvalue())
    middle = len(content) // 2
    rest = damage * 50 + content[middle + 50 :] if damage else b""  # else it breaks off

    with pytest.raises(ArchiveRefused, match="cannot be unpacked"):
        read(content[:middle] + rest)


def test_an_xz_that_needs_gigabytes_of_memory_is_refused():
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    content = lzma.compress(packed(member("a", 3)), filters=filters)

    with pytest.raises(ArchiveRefused, match="cannot be unpacked"):
        read(content)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 600, gzip.compress(b"", mtime=0)])
def test_what_is_no_tar_is_refused(content):
    with pytest.raises(ArchiveRefused):
        read(content)
