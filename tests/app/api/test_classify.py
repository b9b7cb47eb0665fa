"""What can be asked of a classification, over HTTP."""

import pytest

from models.rejection import open_set


def upload(service, path, *contents, **params):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    return service.post(f"/v1/projects/birds{path}", files=files, params=params)


@pytest.fixture
def colours(birds, png):
    """A service whose project `birds` has six images each of red, yellow and blue."""
    for colour in ("red", "yellow", "blue"):
        upload(birds, f"/labels/{colour}/support", *(png(colour, n) for n in range(6)))
    return birds


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


def test_what_is_unknown_is_learned_once_and_only_when_asked_for(colours, png, monkeypatch):
    learned = []
    fit = open_set.fit
    monkeypatch.setattr(open_set, "fit", lambda *given: learned.append(1) or fit(*given))

    upload(colours, "/classify", png("red", 9), coverage=0.9)
    assert not learned
    upload(colours, "/classify", png("red", 9), false_rejection=0.1)
    upload(colours, "/classify", png("red", 9), false_rejection=0.2)
    assert len(learned) == 1
    upload(colours, "/labels/red/support", png("red", 10))
    upload(colours, "/classify", png("red", 9), false_rejection=0.1)
    assert len(learned) == 2


def test_one_shot_of_each_label_cannot_tell_what_is_unknown(birds, png):
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))

    response = upload(birds, "/classify", png("red", 1), false_rejection=0.1)

    assert response.status_code == 409
    assert response.json()["type"] == "/problems/too-few-shots"
    assert "no label has two images" in response.json()["detail"]


def test_a_rate_that_needs_more_images_is_refused_with_their_number(colours, png):
    response = upload(colours, "/classify", png("red", 9), false_rejection=0.01)

    assert response.status_code == 409
    assert response.json()["detail"] == (
        "a false rejection of 0.01 needs 99 images of labels that have two or more; there are 18"
    )


def test_a_set_has_the_label_and_grows_with_the_coverage(colours, png):
    def sets(coverage):
        answer = upload(colours, "/classify", png("red", 9), png("orange"), coverage=coverage)
        return [(p["label"], p["set"]) for p in answer.json()["predictions"]]

    assert all(said[0] == label for label, said in sets(0.5))
    assert sets(0.5)[0] == ("red", ["red"])
    assert [sorted(said) for _, said in sets(0.99)] == [["blue", "red", "yellow"]] * 2  # 18 < 99


@pytest.mark.parametrize("name", ["coverage", "false_rejection"])
@pytest.mark.parametrize("value", [0, 1, -0.5, "nan", "often"])
def test_a_share_lies_between_none_and_all(birds, png, name, value):
    response = upload(birds, "/classify", png("red"), **{name: value})

    assert response.status_code == 422
