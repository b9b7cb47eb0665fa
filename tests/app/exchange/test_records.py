"""What is said of each image, and under which name its file lies in a zip."""

from typing import Any
from uuid import UUID

import pytest

from app.exchange.records import (
    STEM_BYTES,
    ManifestImage,
    Row,
    SuggestedLabel,
    image_name,
    image_path,
    safe_name,
)


def row(**changes):
    values: dict[str, Any] = {
        "id": UUID(int=7),
        "sha256": "a" * 64,
        "filename": "wren 1.JPG",
        "media_type": "image/jpeg",
        "width": 4,
        "height": 3,
        "label": None,
        "annotator": None,
        "split": None,
        "suggestions": (),
    }
    return Row(**(values | changes))


def test_the_likeliest_label_is_the_suggestion():
    suggestions = [SuggestedLabel("wren", 0.75), SuggestedLabel("owl", 0.25)]

    record = ManifestImage(row(suggestions=suggestions), "images/1.jpg", None).record()

    assert (record["suggestion"], record["confidence"]) == ("wren", 0.75)
    assert (record["image"], record["id"], record["missing"]) == (
        "images/1.jpg",
        str(UUID(int=7)),
        None,
    )


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "wren 1-aaaaaaaaaaaaaaaa.jpg"),
        ({"filename": None}, "image-aaaaaaaaaaaaaaaa.jpg"),
        ({"filename": "../../etc/passwd"}, "passwd-aaaaaaaaaaaaaaaa.jpg"),
        ({"media_type": "image/png"}, "wren 1-aaaaaaaaaaaaaaaa.png"),
    ],
)
def test_a_file_name_says_what_the_client_called_it(changes, name):
    assert image_name(row(**changes)) == name
    assert image_path(row(**changes)) == f"images/{name}"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a/b:c*d", "a_b_c_d"),
        ("...", ""),
        (" wren. ", "wren"),
        ("Zaunk\u00f6nig", "Zaunk\u00f6nig"),
    ],
)
def test_a_name_is_one_that_every_system_takes(name, plain):
    assert safe_name(name) == plain


def test_a_long_name_is_cut_between_characters():
    assert safe_name("\u00f6" * 200) == "\u00f6" * (STEM_BYTES // 2)
