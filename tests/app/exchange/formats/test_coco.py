"""COCO."""

import json

import pytest

from tests.app.exchange.formats.conftest import export, facts, import_
from tests.app.exchange.formats.test_folders import packed


def document(images, annotations, categories=("hat", "dress")) -> bytes:
    return json.dumps(
        {
            "info": {},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": n, "name": c} for n, c in enumerate(categories, 1)],
        }
    ).encode()


def test_a_box_is_the_whole_image(shared, few):
    made = json.loads(export(shared, few, "coco"))

    assert [category["name"] for category in made["categories"]] == ["red", "blue"]
    assert [image["file_name"].rpartition("/")[2] for image in made["images"]] == ["content"] * 4
    assert [a["category_id"] for a in made["annotations"]] == [1, 1, 2]
    assert {a["image_id"] for a in made["annotations"]} < {i["id"] for i in made["images"]}
    assert made["annotations"][0]["bbox"] == [0, 0, 20, 20]
    assert made["annotations"][0]["area"] == 400


def test_a_file_of_another_tool_with_its_images(shared, copy, png):
    content = document(
        [{"id": 10, "file_name": "a.png"}, {"id": 11, "file_name": "b.png"}],
        [{"id": 1, "image_id": 10, "category_id": 2}, {"id": 2, "image_id": 10, "category_id": 2}],
    )
    members = {"annotations.json": content, "images/a.png": png("red"), "b.png": png("red", 1)}

    made = import_(shared, packed(**members), copy)

    assert (made["format"], made["failed"], made["labels"]) == ("coco", [], 2)
    assert {(f[1], f[5]) for f in facts(shared, copy)} == {("a.png", "dress"), ("b.png", None)}


def test_an_image_of_several_categories_fails_alone(shared, few):
    images = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3)]
    pairs = [(1, 1), (1, 2), (2, 9), (3, 1)]
    annotations = [{"image_id": image, "category_id": category} for image, category in pairs]

    made = import_(shared, document(images, annotations), few)

    details = [f["problem"]["detail"] for f in made["failed"]]
    assert "several categories ('hat', 'dress')" in details[0]
    assert "not listed" in details[1]
    labels = {fact[1]: fact[5] for fact in facts(shared, few)}
    assert labels == {"0.png": "red", "1.png": "red", "2.png": "blue", "3.png": "hat"}


def test_a_category_that_cannot_be_a_label_is_named_and_the_others_are_made(shared, few):
    images = [{"id": 1, "file_name": "3.png"}]
    annotations = [{"image_id": 1, "category_id": 1}]

    made = import_(shared, document(images, annotations, ("hat", "a/b")), few)

    assert (made["labels"], made["labeled"]) == (1, 1)
    assert "name 'a/b'" in made["failed"][0]["problem"]["detail"]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"images": [], "annotations": []}',
        b'{"images": [1], "annotations": [], "categories": []}',
        b'{"images": [], "annotations": [], "categories": [{"id": 1}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_coco_is_refused(shared, copy, content):
    answer = shared.post(f"/v1/projects/{copy}/import?format=coco", content=content)

    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/import-refused"


def test_a_document_too_large_to_parse_is_refused(shared, few, monkeypatch):
    monkeypatch.setattr("app.exchange.reader.DOCUMENT_BYTES", 1000)
    content = export(shared, few, "coco")

    answer = shared.post(f"/v1/projects/{few}/import?format=coco", content=content)

    assert answer.status_code == 422
    assert "larger than 1000 bytes" in answer.json()["detail"]
