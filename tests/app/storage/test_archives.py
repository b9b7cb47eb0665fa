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
    with pytest.raises(ArchiveRefused, match="4 files; 3 are allowed"):
        Members(packed(a=b"", b=b"", c=b"", d=b""), LIMITS)


def test_a_damaged_member_fails_alone():
    content = packed(a=b"first", b=b"second").getvalue().replace(b"first", b"fiRst")
    members = Members(io.BytesIO(content), LIMITS)

    with pytest.raises(ArchiveMemberRefused, match="'a' cannot be unpacked"):
        members.read("a")
    assert members.read("b") == b"second"


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "a/../../b", "C:\\a", "..\\a"])
def test_names_that_leave_the_archive_are_refused(name):
    complaint = name_complaint(name)

    assert complaint is not None
    assert "leaves the archive" in complaint
