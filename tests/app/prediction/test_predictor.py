"""What a fitted head says of queries: sets of labels, and images of no label."""

from models.rejection import open_set
from tests.uploads import upload


def test_what_is_unknown_is_learned_once_and_only_when_asked_for(colours, png, monkeypatch):
    learned = []
    fit = open_set.fit

    def counted(*args):
        learned.append(1)
        return fit(*args)

    monkeypatch.setattr(open_set, "fit", counted)

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
