"""What methods of pretraining need, and what they look at."""

import io
import uuid
from typing import Any

import pytest
from PIL import Image

from models.metalearning.learners import learners
from models.pretraining.methods import methods

RECIPES = "/v1/projects/birds/recipes"
PREVIEW = "/v1/projects/birds/pretraining/preview"


@pytest.fixture
def image(striped) -> str:
    """Id of an image of the project."""
    return striped.get("/v1/projects/birds/images").json()["items"][0]["id"]


def test_every_method_says_what_it_needs_and_when_not_to_use_it(striped):
    items = striped.get(RECIPES).json()["items"]

    assert [item["name"] for item in items] == [*methods, *learners, "generate", "adapt"]
    for item in items[:-2]:
        pretrains = item["kind"] == "pretrain"
        assert item["summary"]
        assert item["unsuited"]
        assert pretrains == (item["name"] in methods)
        assert (item["images"] >= 500, item["labels"] >= 20) == (pretrains, not pretrains)
        assert item["enough_images"] != pretrains  # of 36
        assert item["enough_labels"] == pretrains  # of 2
        assert item["possible"] == (item["reason"] is None)
        assert item["minutes"] is None


def test_generate_says_what_groups_it_needs(striped):
    item = striped.get(RECIPES).json()["items"][-2]
    assert (item["name"], item["kind"], item["family"]) == ("generate", "generate", "generation")
    assert (item["possible"], item["images"], item["labels"]) == (True, 16, 0)
    striped.post("/v1/projects", json={"name": "empty"}).raise_for_status()

    item = striped.get("/v1/projects/empty/recipes").json()["items"][-2]

    assert not item["possible"]
    assert "there is no label" in item["reason"]


def test_a_method_is_measured_when_asked_for(striped):
    measured: dict[str, Any] = {}
    for names in (["rotation", "mae"], ["r2d2", "feat"]):
        items = striped.get(RECIPES, params={"measure": names}).json()["items"]
        found = {item["name"]: item for item in items if item["minutes"] is not None}
        assert set(found) == set(names)
        measured |= found

    assert all(0 <= item["minutes"] < 60 for item in measured.values())
    # Four turns of each image take more than one image of which parts are hidden.
    assert measured["rotation"]["memory_mib"] > measured["mae"]["memory_mib"] > 0


def test_steps_that_no_encoder_has_learned_are_not_possible_and_not_measured(striped):
    item = striped.get(RECIPES, params={"measure": "adapt"}).json()["items"][-1]

    assert (item["kind"], item["labels"], item["enough_labels"]) == ("finetune", 2, True)
    assert not item["possible"]
    assert "`metatrain` with the method `maml`" in item["reason"]
    assert item["minutes"] is None


def test_an_unknown_method_cannot_be_measured(striped):
    answer = striped.get(RECIPES, params={"measure": "telepathy"})

    assert answer.status_code == 422
    assert "simclr" in answer.text


@pytest.mark.parametrize(
    ("name", "views"), [("simclr", 2), ("rotation", 4), ("swav", 4), ("context", 9)]
)
def test_the_views_of_a_method_are_a_picture(striped, image, name, views):
    body = {"image": image, "method": {"name": name}, "count": 2, "side": 32}

    answer = striped.post(PREVIEW, json=body)

    assert answer.headers["content-type"] == "image/png"
    tiles = 1 + 2 * views
    columns = next(n for n in range(1, 99) if n * n >= tiles)
    width, height = Image.open(io.BytesIO(answer.content)).size
    assert width == columns * 38 - 2  # two pixels of frame around, two of gap between
    assert height == -(-tiles // columns) * 38 - 2


def test_another_seed_draws_other_views(striped, image):
    pictures = {
        striped.post(PREVIEW, json={"image": image, "seed": seed}).content for seed in (0, 1, 1)
    }

    assert len(pictures) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"image": str(uuid.uuid4())}, 404),
        ({"method": {"name": "telepathy"}}, 422),
        ({"method": {"name": "simclr", "options": {"views": {"colour": 7}}}}, 422),
        ({"count": 0}, 422),
    ],
)
def test_what_cannot_be_shown_is_refused(striped, image, body, status):
    assert striped.post(PREVIEW, json={"image": image} | body).status_code == status
