"""Images of a file are added, or looked up in the project by what names them."""

import io
import json

import pytest

from app.settings import UploadLimits

LIMITS = UploadLimits(file_bytes=1 << 20, files=10, archive_files=4, archive_bytes=1 << 20)


@pytest.fixture
def images(birds, png):
    """Three images of the project, of which two have one file name."""
    names = ("wren.png", "owl.png", "owl.png")
    files = [("files", (name, png("red", n))) for n, name in enumerate(names)]
    return birds.post("/v1/projects/birds/pool", files=files).json()["images"]


def import_lines(service, *records, existing="relabel"):
    file = io.BytesIO("\n".join(map(json.dumps, records)).encode())
    imports = service.app.state.parts.imports
    return imports.import_file("birds", file, LIMITS, name="jsonl", existing=existing)


def test_an_image_is_named_by_its_hash_its_id_or_its_name(birds, images):
    imported = import_lines(
        birds,
        {"sha256": images[1]["sha256"], "label": "owl"},
        {"id": images[2]["id"], "label": "owl"},
        {"filename": "wren.png", "label": "wren"},
    )

    assert (imported.images, imported.usable, imported.created) == (3, 3, 0)
    assert (imported.labeled, imported.labels, imported.failed) == (3, 2, [])


def test_a_name_that_two_images_have_names_neither(birds, images):
    (failed,) = import_lines(birds, {"filename": "owl.png", "label": "owl"}).failed

    assert "several images of the project are named 'owl.png'" in failed.problem.detail


def test_an_image_that_is_not_there_is_told_with_its_names(birds, images):
    (failed,) = import_lines(birds, {"filename": "robin.png", "label": "robin"}).failed

    assert (failed.position, failed.filename) == (0, "robin.png")
    assert "no image of name 'robin.png'" in failed.problem.detail


def test_labels_that_images_have_can_be_kept(birds, images):
    line = {"id": images[0]["id"]}
    import_lines(birds, line | {"label": "wren"})

    kept = import_lines(birds, line | {"label": "owl"}, existing="keep")
    changed = import_lines(birds, line | {"label": "owl"})

    assert (kept.labeled, changed.labeled) == (0, 1)
    image = birds.get(f"/v1/projects/birds/images/{images[0]['id']}").json()
    assert image["label"] == "owl"


def test_what_cannot_be_stored_fails_alone(birds, images):
    imported = import_lines(
        birds,
        {"id": images[0]["id"], "label": "a/b"},
        {"id": images[1]["id"], "label": "owl", "annotator": "x" * 201},
        {"id": images[2]["id"], "label": "owl"},
    )

    assert [failed.position for failed in imported.failed] == [0, 1]
    assert imported.labeled == 1


def test_a_file_of_too_many_images_ends_with_the_reason(birds, images):
    imported = import_lines(birds, *[{"id": images[0]["id"]}] * 5)

    assert imported.usable == 4
    assert "more than 4 images" in imported.failed[0].problem.detail
