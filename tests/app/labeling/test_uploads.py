"""Images are stored once, in the pool or with a label."""

import pytest

from app.labeling import uploads
from app.labeling.uploads import Upload, chunks
from app.problems import ArchiveRefused
from tests.uploads import upload


def test_the_same_image_twice_is_one_shot(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    again = upload(birds, "/labels/red/support", png("red"), png("red")).json()

    assert again["label"]["shots"] == 1
    assert [image["created"] for image in again["images"]] == [False, False]


def test_relabeling_an_image_takes_it_from_its_old_label(birds, png):
    upload(birds, "/labels/red/support", png("red"), png("red", 1))
    upload(birds, "/labels/blue/support", png("red", 1))

    red = upload(birds, "/labels/red/support", png("red", 2)).json()

    assert red["label"]["shots"] == 2


def test_an_import_can_keep_what_people_corrected(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    kept = upload(birds, "/labels/blue/support", png("red"), existing="keep").json()

    assert kept["images"][0]["label"] == "red"
    assert kept["label"]["shots"] == 0


def test_an_upload_to_the_pool_never_unlabels(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    added = upload(birds, "/pool", png("red")).json()

    assert added["images"][0]["label"] == "red"
    assert birds.get("/v1/projects/birds").json()["pool"] == 0


def test_many_images_are_labeled_in_as_many_queries_as_two(birds, png, queries):
    def sent(colour: str, files: int) -> list[str]:
        before = len(queries)
        added = upload(birds, f"/labels/{colour}/support", *(png(colour, n) for n in range(files)))
        assert [image["label"] for image in added.json()["images"]] == [colour] * files
        return [query for query in queries[before:] if "annotations" in query or "UPDATE" in query]

    upload(birds, "/labels/red/support", png("red"))  # what only the first request asks

    assert len(sent("lime", 9)) == len(sent("blue", 2)) > 0


@pytest.mark.parametrize(("images", "size"), [(2, 1 << 20), (64, 25)])
def test_a_chunk_is_bounded_in_images_and_bytes(monkeypatch, images, size):
    monkeypatch.setattr(uploads, "CHUNK_IMAGES", images)
    monkeypatch.setattr(uploads, "CHUNK_BYTES", size)

    parts = list(chunks(Upload(f"{n}.png", bytes(10)) for n in range(5)))

    assert [len(files) for files, _ in parts] == [2, 2, 1]
    assert [file.position for files, _ in parts for file in files] == list(range(5))


def test_what_could_not_be_read_keeps_its_position(monkeypatch):
    problem = ArchiveRefused("damaged")

    ((files, failed),) = chunks([Upload("a", b"a"), Upload("b", problem), Upload("c", b"c")])

    assert [file.position for file in files] == [0, 2]
    assert [(f.position, f.filename, f.problem) for f in failed] == [(1, "b", problem)]
