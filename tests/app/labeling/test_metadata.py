"""What clients say of images, and choosing by it."""

from uuid import uuid4

import pytest

from tests import databases

PROJECT = "/v1/projects/birds"


database_url = databases.each


@pytest.fixture
def upload(birds, png):
    """Upload a red or blue image with metadata, and give its id."""

    def send(seed, *pairs, path="/pool", colour="red", status=201):
        answer = birds.post(
            f"{PROJECT}{path}",
            content=png(colour, seed),
            headers={"Content-Type": "image/png"},
            params={"metadata": pairs},
        )
        assert answer.status_code == status, answer.text
        return answer.json()["images"][0]["id"] if status == 201 else answer.json()

    return send


@pytest.fixture
def ranked(birds, upload):
    """The images that a ranking chooses from, by the metadata wished for."""
    upload(900, path="/labels/red/support")
    upload(901, path="/labels/blue/support", colour="blue")

    def rank(wanted, **more):
        body = {"budget": 100, "where": {"metadata": wanted}, **more}
        answer = birds.post(f"{PROJECT}/pool/rank", json=body)
        assert answer.status_code == 200, answer.text
        return {image["image"] for image in answer.json()["images"]}

    return rank


def read(service, image):
    return service.get(f"{PROJECT}/images/{image}").json()["metadata"]


def test_a_ranking_chooses_among_images_with_the_metadata_wished_for(upload, ranked):
    north = upload(1, "camera=north", "day=1")
    south = upload(2, "camera=south", "day=1")
    west = upload(3, "camera=west", "day=2")
    plain = upload(4)

    assert ranked({"camera": "north"}) == {north}
    assert ranked({"camera": ["north", "south"]}) == {north, south}
    assert ranked({"camera": ["north", "west"], "day": "2"}) == {west}
    assert ranked({"camera": "nort"}) == ranked({"colour": "red"}) == set()
    assert ranked({}) == {north, south, west, plain}


def test_labeled_images_are_chosen_by_metadata_too(upload, ranked):
    for seed in range(5):
        upload(seed, path="/labels/red/support")
        upload(seed, path="/labels/blue/support", colour="blue")
    seen = upload(10, "camera=north", path="/labels/red/support", colour="blue")

    assert ranked({"camera": "north"}, strategy={"name": "relabel"}) == {seen}
    assert ranked({"camera": "south"}, strategy={"name": "relabel"}) == set()


def test_numbers_and_odd_text_are_text(birds, upload, ranked):
    image = upload(1, "n=5", "text=a=b, 'c' \"d\" % é", "empty=", "a.b:c/d-e=1")

    assert read(birds, image)["text"] == "a=b, 'c' \"d\" % é"
    for key, value in {
        "n": "5",
        "text": "a=b, 'c' \"d\" % é",
        "empty": "",
        "a.b:c/d-e": "1",
    }.items():
        assert ranked({key: value}) == {image}, key
    assert ranked({"n": "5.0"}) == set()


def test_a_known_image_keeps_what_is_not_said_anew(birds, upload):
    first = upload(1, "camera=north", "day=1")

    assert upload(1, "day=2", "light=low") == first
    assert upload(1) == first
    assert read(birds, first) == {"camera": "north", "day": "2", "light": "low"}


def test_images_are_listed_by_metadata(birds, upload):
    north = upload(1, "camera=north")
    upload(2, "camera=south")

    listed = birds.get(f"{PROJECT}/images", params={"metadata": "camera=north"}).json()["items"]

    assert [image["id"] for image in listed] == [north]


def test_images_are_found_by_a_part_of_their_file_name(birds, png):
    names = ("IMG_1%.png", "IMG_12.png")
    files = [("files", (name, png("red", n))) for n, name in enumerate(names)]
    added = birds.post(f"{PROJECT}/pool", files=files).json()["images"]
    first, second = (image["id"] for image in added)

    def named(part, **more):
        params = {"filename": part}
        listed = birds.get(f"{PROJECT}/images", params=params).json()["items"]
        body = {"strategy": {"name": "random"}, "where": {"filename": part, **more}}
        chosen = birds.post(f"{PROJECT}/pool/rank", json=body).json()["images"]
        if not more:
            assert {image["id"] for image in listed} == {image["image"] for image in chosen}
        return {image["image"] for image in chosen}

    assert named("img_") == named("") == {first, second}
    assert named("2.PNG") == {second}
    assert named("1%") == {first}
    assert named("G__") == set()
    assert named("img", images=[second]) == {second}
    assert named("1%", images=[second]) == set()


def test_the_metadata_of_an_image_is_replaced(birds, upload, ranked):
    image = upload(1, "camera=north")

    answer = birds.put(f"{PROJECT}/images/{image}/metadata", json={"metadata": {"day": "2"}})

    assert answer.json()["metadata"] == read(birds, image) == {"day": "2"}
    assert ranked({"day": "2"}) == {image}
    assert (
        birds.put(f"{PROJECT}/images/{uuid4()}/metadata", json={"metadata": {}}).status_code == 404
    )


def test_of_many_images_an_unknown_one_fails_alone(birds, upload):
    image, stranger = upload(1, "camera=north"), str(uuid4())
    wanted = [{"image": stranger, "metadata": {}}, {"image": image, "metadata": {"day": "1"}}]

    answer = birds.post(f"{PROJECT}/images/metadata", json={"images": wanted}).json()

    assert answer["applied"] == 1
    assert [(f["position"], f["problem"]["status"]) for f in answer["failed"]] == [(0, 404)]
    assert read(birds, image) == {"day": "1"}


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["camera"], "has no '='"),
        (["=north"], "should match pattern"),
        (["two words=1"], "should match pattern"),
        ([f"key={'x' * 501}"], "at most 500"),
        (["key=a\x00b"], "should match pattern"),
        ([f"k{n}=1" for n in range(51)], "at most 50"),
    ],
)
def test_what_cannot_be_metadata_is_refused_and_nothing_stored(birds, upload, pairs, said):
    problem = upload(1, *pairs, status=422)

    assert said in problem["detail"]
    assert birds.get(f"{PROJECT}/images").json()["items"] == []
