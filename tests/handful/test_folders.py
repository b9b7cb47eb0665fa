"""A folder of images into a project: what lies where decides the labels."""

import pytest

from handful.client import Handful
from handful.folders import NothingToImport, scan, upload


@pytest.fixture
def photos(tmp_path, png):
    """Two labels of three images each, an image beside them, and what is none."""
    folder = tmp_path / "photos"
    for colour in ("red", "blue"):
        (folder / colour / "deep").mkdir(parents=True)
        for n in range(2):
            (folder / colour / f"{n}.png").write_bytes(png(colour, n))
        (folder / colour / "deep" / "2.PNG").write_bytes(png(colour, 2))
    (folder / "beside.png").write_bytes(png("green"))
    (folder / "notes.txt").write_text("none")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.png").write_bytes(png("green", 1))
    return folder


def test_folders_are_labels_and_images_beside_them_have_none(photos):
    images = [(image.path.name, image.label) for image in scan(photos)]

    assert images == [
        ("beside.png", None),
        ("0.png", "blue"), ("1.png", "blue"), ("2.PNG", "blue"),
        ("0.png", "red"), ("1.png", "red"), ("2.PNG", "red"),
    ]  # fmt: skip


def test_of_each_label_the_first_images_may_be_support(photos):
    labels = [image.label for image in scan(photos, support=1)]

    assert labels == [None, "blue", None, None, "red", None, None]


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(NothingToImport, match="has no images"):
        scan(tmp_path)
    with pytest.raises(NothingToImport, match="neither a folder nor a file"):
        scan(tmp_path / "none")


def test_images_are_sent_and_what_is_there_already_is_left(live_url, photos, png):
    (photos / "red" / "broken.png").write_bytes(b"none")
    progress: list[int] = []
    with Handful(live_url) as client:
        client.create_project("birds")
        client.add_images("birds", [png("red", 0)], label="crimson")

        outcome = upload(client, "birds", scan(photos), progress.append, {"camera": "north"})

        assert (outcome.added, outcome.known, outcome.other_label) == (6, 1, 1)
        assert sum(progress) == 8
        ((path, reason),) = outcome.failed
        assert path.name == "broken.png"
        assert reason
        assert len(outcome.paths) == 7
        labels = {label.name: label.shots for label in client.labels("birds").items}
        assert labels == {"blue": 3, "crimson": 1, "red": 2}


def test_a_batch_of_which_nothing_can_be_read_says_so_of_each_file(live_url, tmp_path):
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(b"none%d" % n)
    with Handful(live_url) as client:
        client.create_project("birds")

        outcome = upload(client, "birds", scan(tmp_path), lambda count: None)

    assert outcome.added == 0
    assert [path.name for path, _ in outcome.failed] == ["0.png", "1.png"]
