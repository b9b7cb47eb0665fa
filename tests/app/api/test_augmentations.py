"""Contact sheets of augmentations over HTTP."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.augmentation.contact_sheet import FRAME, GAP
from models.images import decode

PREVIEW = "/v1/projects/birds/augmentations/preview"
SIDE = 84  # what conv4 sees
NOISE = {"name": "noise", "options": {"deviation": 0.5}}
CUTMIX = {"name": "cutmix"}
UNKNOWN = "01900000-0000-7000-8000-000000000000"


def images(service, **params):
    return service.get("/v1/projects/birds/images", params=params).json()["items"]


def sheet(service, image, **options):
    answer = service.post(PREVIEW, json={"image": image["id"], "side": SIDE} | options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def tiles(picture):
    pitch = SIDE + 2 * FRAME + GAP
    return [
        picture[top : top + SIDE, left : left + SIDE]
        for top in range(FRAME, picture.shape[0], pitch)
        for left in range(FRAME, picture.shape[1], pitch)
    ]


def lose(service, image, content=None):
    """Spoil the file of an image, or remove it."""
    root = Path(service.app.state.parts.settings.data_dir)
    (path,) = root.rglob(image["sha256"])
    path.unlink() if content is None else path.write_bytes(content)


@pytest.fixture
def coloured(birds, png):
    """A service whose project has four red and four blue images with labels, and a green one."""
    for colour in ("red", "blue"):
        files = [("files", png(colour, seed)) for seed in range(4)]
        birds.post(f"/v1/projects/birds/labels/{colour}/support", files=files)
    birds.post("/v1/projects/birds/pool", files=[("files", png("lime"))])
    return birds


def blue_share(picture):
    blue = (picture[..., 2] > 200) & (picture[..., 0] < 50) & (picture[..., 1] < 50)
    return blue.mean()


def test_the_image_as_the_encoder_sees_it_comes_first_and_then_views_of_it(striped):
    image = images(striped)[0]
    state = striped.app.state.parts
    encoder = state.versions.load(state.projects.read("birds").encoder.id)
    content = striped.get(f"/v1/projects/birds/images/{image['id']}/content").content
    wanted = decode(content, encoder.preprocessing).pixels.permute(1, 2, 0)

    found = tiles(sheet(striped, image, augmentation=[NOISE]))

    assert len(found) == 16
    assert (found[0] == wanted.numpy()).all()
    assert len({view.tobytes() for view in found}) == 16


def test_what_is_not_said_is_as_in_a_training(striped):
    answer = striped.post(PREVIEW, json={"image": images(striped)[0]["id"]})

    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert picture.shape == (4 * (SIDE + 2 * FRAME + GAP) - GAP,) * 2 + (3,)
    assert len({view.tobytes() for view in tiles(picture)}) == 16


def test_the_same_seed_gives_the_same_picture(striped):
    image = images(striped)[0]
    request = {"image": image["id"], "augmentation": [NOISE, CUTMIX], "seed": 3}

    one, same = (striped.post(PREVIEW, json=request).content for _ in range(2))
    other = striped.post(PREVIEW, json=request | {"seed": 4}).content

    assert one == same
    assert one != other


def test_the_number_of_views_and_their_side_can_be_chosen(striped):
    picture = sheet(striped, images(striped)[0], count=3, side=20)

    assert picture.shape == (2 * (20 + 2 * FRAME) + GAP,) * 2 + (3,)


def test_what_mixes_takes_other_images_of_the_project(coloured):
    red = images(coloured, label="red")[0]

    found = tiles(sheet(coloured, red, augmentation=[CUTMIX], count=35))

    assert blue_share(found[0]) == 0
    assert blue_share(np.stack(found)) > 0.02


def test_a_label_with_a_policy_of_its_own_is_mixed_with_its_equals(coloured):
    red, own = images(coloured, label="red")[0], {"red": [CUTMIX]}

    alone = sheet(coloured, red, augmentation=[], per_class=own, count=35)
    like_blue = sheet(coloured, red, augmentation=[], per_class=own | {"blue": [CUTMIX]}, count=35)
    like_others = sheet(coloured, red, augmentation=[CUTMIX], per_class=own, count=35)
    unlike_blue = sheet(coloured, red, augmentation=[CUTMIX], per_class={"blue": []}, count=35)

    assert blue_share(alone) == blue_share(unlike_blue) == 0
    assert blue_share(like_blue) > 0.02
    assert blue_share(like_others) > 0.02


def test_an_image_has_the_policy_of_its_label_and_in_the_pool_that_of_all(coloured):
    red, blue = (images(coloured, label=label)[0] for label in ("red", "blue"))
    (lime,) = images(coloured, state="pool")
    label_id = coloured.get("/v1/projects/birds/labels/red").json()["id"]

    for key in ("red", label_id):
        policies = {"augmentation": [NOISE], "per_class": {key: []}, "count": 3}
        kinds = [
            len({view.tobytes() for view in tiles(sheet(coloured, image, **policies))})
            for image in (red, blue, lime)
        ]
        assert kinds == [1, 4, 4]


def test_the_only_image_of_a_project_is_mixed_with_itself(birds, png):
    birds.post("/v1/projects/birds/pool", files=[("files", png("red"))])

    found = tiles(sheet(birds, images(birds)[0], augmentation=[CUTMIX]))

    assert len({view.tobytes() for view in found}) == 1


def test_a_project_or_image_that_does_not_exist_is_not_found(striped):
    unknown = {"image": UNKNOWN}
    known = {"image": images(striped)[0]["id"]}

    image = striped.post(PREVIEW, json=unknown)
    project = striped.post("/v1/projects/cats/augmentations/preview", json=known)

    assert (image.status_code, image.json()["type"]) == (404, "/problems/image-not-found")
    assert (project.status_code, project.json()["type"]) == (404, "/problems/project-not-found")


def test_an_image_of_another_project_is_not_found(striped):
    striped.post("/v1/projects", json={"name": "cats"})

    answer = striped.post(
        "/v1/projects/cats/augmentations/preview", json={"image": images(striped)[0]["id"]}
    )

    assert answer.status_code == 404


def test_an_image_whose_file_is_gone_or_damaged_says_so(striped):
    gone, damaged = images(striped)[:2]
    lose(striped, gone)
    lose(striped, damaged, b"nothing")

    missing = striped.post(PREVIEW, json={"image": gone["id"]})
    unreadable = striped.post(PREVIEW, json={"image": damaged["id"]})

    assert missing.status_code == 404
    assert "is gone" in missing.json()["detail"]
    assert unreadable.status_code == 422
    assert unreadable.json()["type"] == "/problems/image-not-decodable"


def test_others_that_cannot_be_read_are_left_out(coloured):
    red, *others = images(coloured, state="support")
    for number, other in enumerate(others):
        lose(coloured, other, None if number % 2 else b"nothing")

    assert len(tiles(sheet(coloured, red, augmentation=[CUTMIX]))) == 16


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"count": 36},
        {"side": 15},
        {"side": 513},
        {"seed": -1},
        {"image": "first"},
        {"augmentation": [{"name": "blurr"}]},
        {"augmentation": [{"name": "blur", "options": {"deviation": 2}}]},
        {"augmentation": [{"name": "blur"}] * 11},
        {"per_class": {"level": [{"name": "blurr"}]}},
        {"per_class": {"level": [{"name": "blur"}] * 11}},
        {"policy": []},
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(service, options):
    answer = service.post(PREVIEW, json={"image": UNKNOWN} | options)

    assert answer.status_code == 422, answer.text
    assert "/body" in answer.json()["detail"]


def test_labels_that_do_not_exist_are_named(striped):
    request = {"image": images(striped)[0]["id"]}
    request["per_class"] = {"level": [], "flat": [], "\ud800": [], "\0": []}

    answer = striped.post(
        PREVIEW, content=json.dumps(request), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 422
    assert r"does not have: 'flat', '\ud800', '\x00'; GET" in answer.json()["detail"]
    assert "level" not in answer.json()["detail"]


def test_the_document_says_that_the_answer_is_a_picture(service):
    paths = service.get("/openapi.json").json()["paths"]

    operation = paths["/v1/projects/{project}/augmentations/preview"]["post"]

    assert operation["tags"] == ["augmentations"]
    assert operation["responses"]["200"]["content"] == {
        "image/png": {"schema": {"type": "string", "format": "binary"}}
    }
