"""Zips written as a stream, and read within limits."""

import io
import zipfile

import pytest

from app.problems import ArchiveMemberRefused, ArchiveRefused, FileTooLarge
from app.settings import UploadLimits
from app.storage.archives import Members, ZipStream, name_complaint

LIMITS = UploadLimits(file_bytes=100, files=10, archive_files=3, archive_bytes=250)


def streamed(**members: bytes) -> list[bytes]:
    archive = ZipStream()
    parts = []
    for name, content in members.items():
        archive.add(name, content)
        parts.append(archive.drain())
    parts += archive.copy("long.txt", io.BytesIO(b"line\n" * 1_000_000))
    return [*parts, archive.close()]


def packed(**members: bytes) -> io.BytesIO:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer


def test_a_zip_is_sent_member_by_member_and_is_whole_in_the_end():
    parts = streamed(**{"ä/1.png": b"\0" * 5000, "2.png": b""})

    assert b"\0" * 5000 in parts[0]
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["ä/1.png", "2.png", "long.txt"]
        assert archive.read("ä/1.png") == b"\0" * 5000
        assert archive.read("long.txt") == b"line\n" * 1_000_000


def test_what_can_be_read_without_seeking_tells_where_a_member_ends():
    content = b"".join(streamed(**{"1.png": b"x" * 500}))

    method = int.from_bytes(content[8:10], "little")
    assert method == zipfile.ZIP_DEFLATED


def test_the_same_members_make_the_same_bytes():
    assert streamed(a=b"1") == streamed(a=b"1")


def test_members_are_read_within_limits():
    members = Members(packed(a=b"1" * 100, b=b"2" * 101, __MACOSX=b""), LIMITS)

    assert list(members) == ["a", "b"]
    assert members.read("a") == b"1" * 100
    with pytest.raises(FileTooLarge, match="larger than 100 bytes"):
        members.read("b")
    with pytest.raises(ArchiveRefused, match="unpacks to more than 250 bytes"):
        members.read("a")


def test_a_member_to_read_in_part_may_not_be_larger_than_all():
    members = Members(packed(a=b"1" * 251), LIMITS)

    with pytest.raises(ArchiveRefused, match="250 bytes"), members.open("a"):
        pass


def test_too_many_members_are_refused():
    with pytest.raises(ArchiveRefused, match="4 files and folders; 3 are allowed"):
        Members(packed(a=b"", b=b"", c=b"", d=b""), LIMITS)


def test_folders_and_litter_count_before_the_directory_is_parsed(monkeypatch):
    content = packed(**{"a/": b"", "__MACOSX/a": b"", ".DS_Store": b"", "b/": b""}).getvalue()
    content = content[:-12] + b"\1\0" + content[-10:]  # its end says that it is one
    monkeypatch.setattr(zipfile, "ZipInfo", None)

    with pytest.raises(ArchiveRefused, match="4 files and folders; 3 are allowed"):
        Members(io.BytesIO(content), LIMITS)


def test_a_directory_that_is_too_large_for_its_members_is_refused():
    content = packed(**{"a" * 3000: b""})

    with pytest.raises(ArchiveRefused, match="directory of 3046 bytes"):
        Members(content, LIMITS)


def test_a_damaged_member_fails_alone():
    content = packed(a=b"first", b=b"second").getvalue().replace(b"first", b"fiRst")
    members = Members(io.BytesIO(content), LIMITS)

    with pytest.raises(ArchiveMemberRefused, match="'a' cannot be unpacked"):
        members.read("a")
    assert members.read("b") == b"second"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_fails_alone_whatever_compressed_it(method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a", bytes(range(90)))
        archive.writestr("b", b"second")
    content = bytearray(buffer.getvalue())
    content[31:120] = b"\xff" * 89  # behind the header of the first and its name
    members = Members(io.BytesIO(bytes(content)), LIMITS)

    with pytest.raises(ArchiveMemberRefused, match="'a' cannot be unpacked"):
        members.read("a")
    with pytest.raises(ArchiveRefused, match="cannot be unpacked"), members.open("a") as file:
        file.read()
    assert members.read("b") == b"second"


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "C:\\a", "..\\a"])
def test_names_that_leave_the_archive_are_refused(name):
    complaint = name_complaint(name)

    assert complaint is not None
    assert "leaves the archive" in complaint
