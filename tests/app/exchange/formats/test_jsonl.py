"""JSON Lines."""

import json

from tests.app.exchange.formats.conftest import export, facts, images, import_


def lines(*records) -> bytes:
    return "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records).encode()


def test_a_line_that_cannot_be_read_fails_alone(shared, few):
    made = import_(
        shared,
        lines(
            {"image": "3.png", "label": 7},
            "{",
            "[]",
            {"image": {"a": 1}},
            {"image": "2.png", "label": ["a"]},
            "",
            {"label": "green"},
            {"image": "1.png", "label": "green", "annotator": "\ud800"},
            {"image": "0.png", "label": "green"},
        ),
        few,
    )

    assert [f["position"] for f in made["failed"]] == [1, 2, 3, 4, 5, 6]
    labels = {fact[1]: fact[5] for fact in facts(shared, few)}
    assert labels == {"0.png": "green", "1.png": "red", "2.png": "blue", "3.png": "7"}


def test_an_image_is_found_by_sha256_id_or_address(shared, few):
    one, two, three, _ = images(shared, few)

    made = import_(
        shared,
        lines(
            {"sha256": one["sha256"].upper(), "label": "a"},
            {"id": two["id"], "label": "b"},
            {"image": f"/v1/projects/x/images/{three['id']}/content", "label": "c"},
        ),
        few,
    )

    assert made["failed"] == []
    assert [image["label"] for image in images(shared, few)] == ["a", "b", "c", None]


def test_of_an_image_that_comes_twice_the_last_label_counts(shared, few):
    import_(shared, lines({"image": "3.png", "label": "a"}, {"image": "3.png", "label": "b"}), few)

    assert images(shared, few)[3]["label"] == "b"


def test_an_image_of_another_project_is_not_touched(shared, few, new):
    other = images(shared, few)[0]

    answer = shared.post(
        f"/v1/projects/{new()}/import", content=lines({"id": other["id"], "label": "green"})
    )

    assert answer.status_code == 422
    assert images(shared, few)[0]["label"] == "red"


def test_a_line_longer_than_any_image_is_refused(shared, few, limit):
    content = lines({"image": "3.png", "label": "a"}, {"image": "x" * 90_000})
    limit(file_bytes=1000)

    made = import_(shared, content, few)

    assert made["labeled"] == 1
    assert "a line is longer than 67536 bytes" in made["failed"][0]["problem"]["detail"]


def test_a_file_of_too_many_images_ends_there(shared, few, limit):
    limit(archive_files=1)

    made = import_(shared, export(shared, few, "jsonl"), few)

    assert made["images"] == 1
    assert "more than 1 images" in made["failed"][0]["problem"]["detail"]
