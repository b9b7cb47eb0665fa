"""A file to import says of which images it speaks."""

import base64
import io
import json
import zipfile
from uuid import UUID

import pytest

from app.exchange.reader import ImportSource, decode_text, parse_json
from app.problems import FileTooLarge, ImageNotDecodable, ImportRefused, InvalidRequest
from app.settings import UploadLimits

LIMITS = UploadLimits(file_bytes=100, files=10, archive_files=10, archive_bytes=10_000)
ID = "01890a5d-ac96-774b-bcce-b302099a8057"


def source(content=b""):
    return ImportSource(io.BytesIO(content), LIMITS)


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return source(file.getvalue())


def test_an_image_is_named_by_what_is_said_of_it():
    entry = source().entry(
        {"image": "photos/cf538e5d-wren.jpg", "label": "wren", "sha256": "A" * 64}
    )

    assert (entry.label, entry.sha256, entry.content) == ("wren", "a" * 64, None)
    assert entry.name == "cf538e5d-wren.jpg"
    assert list(entry.filenames) == ["cf538e5d-wren.jpg", "wren.jpg"]


@pytest.mark.parametrize(
    ("address", "names"),
    [
        (f"https://label.example.org/v1/projects/p/images/{ID}/content", []),
        ("/data/local-files/?d=birds/wren%201.jpg", ["wren 1.jpg"]),
        ("https://example.org/a/wren%201.jpg?size=2", ["wren 1.jpg"]),
        ("C:\\birds\\wren.jpg", ["wren.jpg"]),
    ],
)
def test_addresses_of_many_kinds_name_a_file(address, names):
    entry = source().entry({"image": address})

    assert list(entry.filenames) == names
    assert entry.id == (UUID(ID) if ID in address else None)


def test_an_image_may_be_in_the_record_itself():
    data = "data:image/png;base64," + base64.b64encode(b"pixels").decode()

    assert source().entry({"image": data}).content == b"pixels"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ([], InvalidRequest),
        ({"label": ["wren"]}, InvalidRequest),
        ({"image": "data:image/png,plain"}, ImageNotDecodable),
        ({"image": "data:image/png;base64,####"}, ImageNotDecodable),
        ({"image": "data:image/png;base64," + "A" * 1000}, FileTooLarge),
    ],
)
def test_what_cannot_be_read_is_told_in_the_entry(record, problem):
    assert isinstance(source().entry(record).content, problem)


def test_a_manifest_in_a_folder_of_a_zip_names_files_beside_it():
    archive = zipped(**{"birds__list.jsonl": b"", "birds__images__1.png": b"1", "2.png": b"2"})

    with archive.text(".jsonl"):
        assert archive.find("1.png") == "birds/images/1.png"
        assert archive.find("./2.png") == "2.png"
        assert archive.find("3.png") is None


def test_of_two_manifests_none_is_the_one():
    archive = zipped(**{"a.json": b"{}", "b.json": b"{}"})

    assert archive.text_start(".json") is None
    with pytest.raises(ImportRefused, match="2 files that end in"):
        archive.document()


def test_lines_are_read_one_by_one_and_a_bad_one_fails_alone():
    lines = b'{"filename": "1.png"}\n\n{"filename"\n{"filename": "2.png"}\n'

    entries = list(source().lines(io.BytesIO(lines)))

    assert [entry.name for entry in entries] == ["1.png", None, "2.png"]
    assert isinstance(entries[1].content, ImportRefused)


def test_a_byte_order_mark_is_no_part_of_a_text():
    assert decode_text(b"\xef\xbb\xbfwren") == "wren"
    assert parse_json(b"\xef\xbb\xbf" + json.dumps([1]).encode()) == [1]
    for content in (b"\xff", b"{", b"[" * 100_000):
        with pytest.raises(ImportRefused):
            parse_json(content)
