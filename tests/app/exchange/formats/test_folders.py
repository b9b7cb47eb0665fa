"""Class folders in a zip."""

import io
import json
import zipfile

from app.exchange.formats.folders import folder_names
from tests.app.exchange.formats.conftest import LABELS, export, facts, import_, post


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def opened(content: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(content))


def test_every_image_lies_in_the_folder_of_its_label(shared, few):
    archive = opened(export(shared, few))

    folders = sorted(name.split("/")[0] for name in archive.namelist() if "/" in name)
    assert folders == ["blue", "red", "red", "unlabeled"]
    assert archive.testzip() is None


def test_with_splits_there_is_a_folder_for_each(shared, few):
    archive = opened(export(shared, few, splits={"train": 0.5, "val": 0.5}))

    folders = {tuple(name.split("/")[:2]) for name in archive.namelist() if "/" in name}
    assert folders >= {("train", "red"), ("val", "red")}
    assert {split for split, _ in folders} == {"train", "val"}


def test_names_are_safe_on_every_system_and_differ_there(awkward):
    archive = opened(export(awkward))

    names = archive.namelist()
    assert len({name.casefold() for name in names}) == len(names)
    for part in (part for name in names for part in name.split("/")):
        assert not set(part) & set('\\:*?"<>|\n')
        assert len(part.encode()) < 200
        assert part == part.strip(" .")
    folders = folder_names(LABELS)
    assert len(set(folders.values())) == len(LABELS)
    assert folders["dress"] == "dress"


def test_the_manifest_says_what_names_cannot(awkward):
    archive = opened(export(awkward))

    lines = [json.loads(line) for line in archive.read("handful.jsonl").decode().splitlines()]
    assert {line["image"] for line in lines} == {n for n in archive.namelist() if "/" in n}
    assert archive.read("labels.txt").decode().splitlines()[: len(LABELS)] == [
        label.strip() for label in LABELS
    ]


def test_folders_that_somebody_else_packed_give_their_names(shared, copy, png):
    members = {
        "photos/hat/1.png": png("red"),
        "photos/hat/2.png": png("red", 1),
        "train/dress 100%25/1.png": png("red", 2),
        "unlabeled/3.png": png("red", 3),
        "4.png": png("red", 4),
        "__MACOSX/hat/._1.png": b"litter",
    }

    made = import_(shared, packed(**members), copy)

    assert (made["format"], made["failed"]) == ("folders", [])
    found = {(fact[1], fact[5]) for fact in facts(shared, copy)}
    assert found == {
        ("1.png", "hat"),
        ("2.png", "hat"),
        ("1.png", "dress 100%25"),
        ("3.png", None),
        ("4.png", None),
    }


def test_what_cannot_be_used_fails_alone(shared, copy, png):
    members = {
        "hat/notes.txt": b"no image",
        "../hat/1.png": png("red"),
        f"{'x' * 201}/2.png": png("red", 1),
        "hat/3.png": png("red", 2),
    }

    made = import_(shared, packed(**members), copy)

    assert (made["images"], made["created"]) == (4, 1)
    assert {f["position"]: f["problem"]["type"] for f in made["failed"]} == {
        0: "/problems/image-not-decodable",
        1: "/problems/archive-member-refused",
        2: "/problems/invalid-request",
    }


def test_a_form_with_one_file_does_as_well(shared, few, copy):
    made = post(shared, f"{copy}/import", files={"files": ("x.zip", export(shared, few))}).json()

    assert made["created"] == 4
