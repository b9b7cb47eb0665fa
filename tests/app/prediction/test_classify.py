"""What can be asked of a classification, over HTTP."""

import pytest

from tests.uploads import upload


def test_what_is_not_asked_for_is_not_said(colours, png):
    answer = upload(colours, "/classify", png("red", 9)).json()

    (prediction,) = answer["predictions"]
    assert answer["rejection"] is None
    assert [prediction[name] for name in ("set", "unknown", "unknown_score")] == [None] * 3


def test_an_image_of_no_label_is_unknown(colours, png):
    answer = upload(
        colours, "/classify", png("red", 9), png("black"), png("blue", 9), false_rejection=0.1
    ).json()

    threshold = answer["rejection"]["threshold"]
    assert [p["unknown"] for p in answer["predictions"]] == [False, True, False]
    assert [p["unknown_score"] > threshold for p in answer["predictions"]] == [False, True, False]
    assert 0 <= answer["rejection"]["caught"] <= 1


@pytest.mark.parametrize("name", ["coverage", "false_rejection"])
@pytest.mark.parametrize("value", [0, 1, -0.5, "nan", "often"])
def test_a_share_lies_between_none_and_all(birds, png, name, value):
    response = upload(birds, "/classify", png("red"), **{name: value})

    assert response.status_code == 422
