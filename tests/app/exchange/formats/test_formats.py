"""What every format promises."""

import importlib.util
import itertools
import json
import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import event

from app.exchange import exports
from app.exchange.formats import Format, formats
from tests.app.exchange.formats.conftest import export, facts, images, import_, labels, post, upload

WITH_IMAGES = {
    "folders": {},
    "parquet": {},
    "csv_manifest": {"images": True},
    "jsonl": {"images": True},
    "coco": {"images": True},
    "label_studio": {"images": True},
}
WITHOUT = [name for name, options in WITH_IMAGES.items() if options]
no_parquet = pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="no pyarrow")
every_format = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[no_parquet] * (name == "parquet")) for name in WITH_IMAGES],
)


@pytest.mark.parametrize("name", formats)
def test_a_plug_in_is_a_format(name):
    assert isinstance(formats[name](), Format)
    assert name in WITH_IMAGES


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognised"])
@every_format
def test_a_round_trip_loses_nothing(awkward, copy, name, named):
    content = export(awkward, name=name, options=WITH_IMAGES[name])

    made = import_(awkward, content, copy, f"?format={name}" if named else "")

    assert made["failed"] == []
    assert made["format"] == name
    assert facts(awkward, copy) == facts(awkward, "awkward")
    assert labels(awkward, copy) == labels(awkward, "awkward")
    assert made["created"] == made["images"] == len(images(awkward, "awkward"))


@pytest.fixture
def with_images(awkward, copy) -> str:
    """The name of a project that has the images of `awkward` without their labels."""
    import_(awkward, export(awkward), copy)
    changes = [{"image": image["id"], "label": None} for image in images(awkward, copy)]
    post(awkward, f"{copy}/annotations", json={"annotations": changes})
    return copy


@pytest.mark.parametrize("name", WITHOUT)
def test_labels_travel_without_images_to_a_project_that_has_these(awkward, with_images, name):
    content = export(awkward, name=name)

    made = import_(awkward, content, with_images)

    assert (made["format"], made["failed"], made["created"]) == (name, [], 0)
    assert facts(awkward, with_images) == facts(awkward, "awkward")


@pytest.mark.parametrize("name", WITHOUT)
def test_an_image_is_named_by_its_address(awkward, name):
    text = export(awkward, name=name, options={"base_url": "https://example.org/"}).decode()

    found = re.findall(r"https://example\.org/v1/projects/[0-9a-f-]+/images/([^/]+)/content", text)
    assert found == [image["id"] for image in images(awkward, "awkward")]


@every_format
def test_repeating_an_import_changes_nothing(shared, few, copy, name):
    content = export(shared, few, name, WITH_IMAGES[name])
    import_(shared, content, copy)

    again = import_(shared, content, copy)

    assert (again["images"], again["failed"]) == (4, [])
    assert (again["created"], again["labeled"], again["labels"]) == (0, 0, 0)


@every_format
def test_an_empty_project_makes_an_empty_file(shared, new, name):
    content = export(shared, new(), name, WITH_IMAGES[name])

    made = import_(shared, content, new(), f"?format={name}")

    assert made.pop("format") == name
    assert made == {"images": 0, "created": 0, "labeled": 0, "labels": 0, "failed": []}


@every_format
def test_an_image_whose_file_is_gone_is_named_and_the_others_are_there(shared, few, copy, name):
    gone, damaged, *rest = images(shared, few)
    blobs = shared.app.state.parts.blobs
    blobs.remove(gone["sha256"])
    Path(blobs._path(damaged["sha256"])).write_bytes(b"something else")

    content = export(shared, few, name, WITH_IMAGES[name])
    made = import_(shared, content, copy)

    assert [f["position"] for f in made["failed"]] == [0, 1]
    assert "its file cannot be read: FileNotFoundError" in made["failed"][0]["problem"]["detail"]
    assert "its file is damaged" in made["failed"][1]["problem"]["detail"]
    assert made["created"] == len(rest)


@every_format
def test_images_are_read_one_at_a_time_with_no_connection_open(awkward, name, monkeypatch):
    exported = awkward.app.state.parts.exports
    read = exports.Exports._content
    ours = threading.get_ident()  # other threads look for webhooks to send meanwhile
    held, connections = set(), []

    @event.listens_for(exported.db.engine, "checkout")
    def taken(connection, record, proxy) -> None:
        if threading.get_ident() == ours:
            held.add(id(record))

    @event.listens_for(exported.db.engine, "checkin")
    def back(connection, record) -> None:
        held.discard(id(record))

    def noticed(self, row) -> bytes:
        connections.append(len(held))
        return read(self, row)

    monkeypatch.setattr(exports.Exports, "_content", noticed)
    monkeypatch.setattr(exports, "BLOCK_BYTES", 1)
    monkeypatch.setattr("app.exchange.formats.parquet.GROUP_IMAGES", 2)
    form = formats[name](**WITH_IMAGES[name])

    made = exported.export("awkward", form, exports.ExportQuery("all", None, predictions=False))
    read_before_each_part = [len(connections) for _ in made.parts]

    assert set(connections) == {0}
    assert len(connections) == len(images(awkward, "awkward"))
    assert max(b - a for a, b in itertools.pairwise(read_before_each_part)) <= 2


@every_format
def test_what_was_deleted_or_labeled_meanwhile_does_not_disturb(shared, few, copy, name):
    form = formats[name](**WITH_IMAGES[name])
    first, second, *_ = images(shared, few)
    wish = exports.ExportQuery("all", None, predictions=False)
    made = shared.app.state.parts.exports.export(few, form, wish)
    shared.delete(f"/v1/projects/{few}/images/{first['id']}")
    shared.delete(f"/v1/projects/{few}/images/{second['id']}/label")

    result = import_(shared, b"".join(made.parts), copy)

    assert (result["images"], result["failed"]) == (3, [])
    copied = {image["sha256"]: image["label"] for image in images(shared, copy)}
    assert copied[second["sha256"]] == "red"


@pytest.mark.parametrize("content", [b"PK\x03\x04 zip", b"PAR1", b"{", b"[[", b"\xff", b"1,2"])
@every_format
def test_a_file_of_another_kind_is_refused_with_the_reason(shared, copy, name, content):
    answer = shared.post(f"/v1/projects/{copy}/import?format={name}", content=content)

    assert answer.status_code == 422
    assert answer.json()["type"] in {
        "/problems/import-refused",
        "/problems/archive-refused",
        "/problems/invalid-request",
    }


@every_format
def test_a_file_that_breaks_off_is_refused(shared, few, copy, name):
    content = export(shared, few, name, WITH_IMAGES[name])

    answer = shared.post(f"/v1/projects/{copy}/import", content=content[: len(content) // 2])

    assert answer.status_code == 422
    assert images(shared, copy) == []


def test_suggestions_are_for_the_pool_alone(shared, few):
    export_ = export(shared, few, "jsonl", predictions=True)

    *support, pool = map(json.loads, export_.decode().splitlines())
    assert pool["suggestion"] in {"red", "blue"}
    assert pool["confidence"] == max(pool["probabilities"].values())
    assert sum(pool["probabilities"].values()) == pytest.approx(1)
    assert [line["suggestion"] for line in support] == [None] * 3


def test_suggestions_without_labels_are_refused_before_anything_is_sent(shared, copy):
    answer = shared.post(f"/v1/projects/{copy}/export", json={"predictions": True})

    assert answer.status_code == 409


@pytest.mark.parametrize(("state", "count"), [("all", 4), ("support", 3), ("pool", 1)])
def test_support_and_pool_can_be_had_apart(shared, few, state, count):
    assert len(export(shared, few, "jsonl", state=state).splitlines()) == count


def test_splits_are_stratified_and_stable(shared, copy, png):
    for n, colour in enumerate(("red", "blue")):
        files = [(f"{i}.png", png(colour, 40 * n + i)) for i in range(16)]
        upload(shared, f"{copy}/labels/{colour}/support", *files)
    upload(shared, f"{copy}/pool", *((f"{i}.png", png("white", i)) for i in range(4)))
    wanted = {"train": 0.75, "test": 0.25}

    def splits() -> dict[str, tuple]:
        lines = export(shared, copy, "jsonl", splits=wanted).decode().splitlines()
        return {r["sha256"]: (r["label"], r["split"]) for r in map(json.loads, lines)}

    before = splits()
    upload(shared, f"{copy}/labels/red/support", ("new.png", png("red", 99)))
    after = splits()

    for colour in ("red", "blue"):
        assert list(before.values()).count((colour, "train")) == 12
        assert list(before.values()).count((colour, "test")) == 4
    assert list(before.values()).count((None, "train")) == 3
    moved = [digest for digest in before if before[digest] != after[digest]]
    assert len(moved) <= 1
    assert all(before[digest][0] == "red" for digest in moved)


def test_the_annotator_is_who_gave_the_label_that_stands(shared, few):
    image = images(shared, few)[3]["id"]
    path = f"/v1/projects/{few}/images/{image}/label"
    shared.put(path, json={"label": "red", "annotator": "ada"})
    shared.put(path, json={"label": "blue", "annotator": "bob", "replace": True})
    shared.post(f"{path}/undo?annotator=cyd")

    line = json.loads(export(shared, few, "jsonl").splitlines()[3])

    assert (line["label"], line["annotator"]) == ("red", "ada")
