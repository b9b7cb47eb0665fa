"""The job that pretrains, done in this process."""

import base64
import io
import math

import PIL.Image
import pytest

from models.training.loop import Training
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import (
    events,
    interrupt,
    lose_files,
    losses_and_weights,
    terminal_lines,
    versions,
)

OPTIONS = {"epochs": 3, "batch_size": 12}  # of 36 images
SMALL = {"name": "vit", "options": {"width": 24, "image_side": 16, "patch": 4, "depth": 2}}
TINY = {"name": "conv4", "options": {"width": 8, "image_side": 16}}


def submit(service, **options):
    return submit_job(service, "pretrain", OPTIONS | options)


def test_a_project_gets_an_encoder_that_learned_from_its_images(striped, do):
    before = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    location = submit(striped)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    newest = versions(striped)[0]
    assert (newest["id"], newest["parent"], newest["job"]) == (
        job["result"]["version"],
        before,
        job["id"],
    )
    assert newest["images"] == 0  # labeled ones that it learned from
    verdict = job["result"]["verdict"]
    assert verdict["images"] == 32
    assert set(verdict["against"]) == {"base"}
    assert newest["current"] == job["result"]["promoted"] == verdict["better"]


def test_every_epoch_tells_how_it_goes(striped, do):
    location = submit(striped)

    do(striped)

    epochs = [data for data in events(striped, location) if data["stage"] == "pretraining"]
    assert [(data["epoch"], data["epochs"], data["method"]) for data in epochs] == [
        (1, 3, "simclr"),
        (2, 3, "simclr"),
        (3, 3, "simclr"),
    ]
    assert all(0 <= data["accuracy"] <= 1 and data["rank"] >= 1 for data in epochs)
    assert all(data["spread"] > 0 and data["images_per_s"] > 0 for data in epochs)
    assert epochs[0]["chance"] == pytest.approx(math.log(23), rel=1e-4)
    assert epochs[-1]["seconds_left"] == 0


@pytest.mark.parametrize("encoder", [TINY, SMALL])
def test_a_masked_autoencoder_shows_what_it_paints(striped, do, encoder):
    location = submit(striped, method={"name": "mae"}, encoder=encoder, epochs=7)

    do(striped)

    pictures = events(striped, location, "picture")
    assert [data["epoch"] for data in pictures] == [1, 2, 4, 6, 7]
    head, _, content = pictures[-1]["url"].partition(",")
    assert head == "data:image/png;base64"
    sheet = PIL.Image.open(io.BytesIO(base64.b64decode(content)))
    assert sheet.size == (208, 208)  # three images: whole, in part, and painted
    assert len({data["url"] for data in pictures}) == 5  # it paints otherwise as it learns


@pytest.mark.parametrize(
    "method", ["rotation", "mae", "moco", "byol", "npid", "deepcluster", "swav"]
)
def test_other_methods_run_as_well(striped, do, method):
    location = submit(striped, method={"name": method}, promote="always", epochs=1)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["promoted"]
    assert striped.get("/v1/projects/birds").json()["encoder"]["id"] == job["result"]["version"]


def test_another_architecture_starts_from_random_weights_and_serves(striped, do, stripes):
    location = submit(striped, encoder=SMALL, method={"name": "mae"}, promote="always", epochs=1)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    newest = versions(striped)[0]
    assert (newest["name"], newest["options"]["width"], newest["embedding_dim"]) == ("vit", 24, 24)
    assert newest["current"]
    answer = striped.post(
        "/v1/projects/birds/classify", files=[("files", stripes("level", 99))]
    ).json()
    assert answer["encoder"] == newest["id"]


def test_without_labels_nothing_is_promoted_by_itself(birds, stripes, do):
    files = [("files", stripes("level", n)) for n in range(12)]
    birds.post("/v1/projects/birds/pool", files=files)
    location = submit(birds)

    do(birds)

    result = birds.get(location).json()["result"]
    assert not result["promoted"]
    assert "too few labels" in result["verdict"]["reason"]


@pytest.mark.parametrize("method", ["simclr", "moco", "deepcluster"])
def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(striped, do, method):
    whole = submit(striped, method={"name": method}, promote="never")
    do(striped)
    for after in (1, 2):
        location = submit(striped, method={"name": method}, promote="never")
        interrupt(striped, do, location, Training, "__next__", after)

        do(striped)

        assert losses_and_weights(striped, location) == losses_and_weights(striped, whole)


def test_images_deleted_meanwhile_are_left_out_and_the_training_starts_over(striped, do):
    location = submit(striped, method={"name": "npid"}, promote="never")
    interrupt(striped, do, location, Training, "__next__", after=1)
    lose_files(striped, 1)

    do(striped)

    assert striped.get(location).json()["state"] == "succeeded"
    says = [data["text"] for data in events(striped, location, "message")]
    assert says[0] == "1 images cannot be read any more and are left out"


def test_too_few_images_that_can_be_read_fail_the_job(striped, do):
    location = submit(striped)
    lose_files(striped, 30)

    do(striped)

    assert striped.get(location).json()["error"].startswith("only 6 images can be read")


def test_a_training_that_collapses_fails_with_the_reason(striped, do):
    nothing = {"crop": 1.0, "flip": 0.0, "colour": 0.0, "grey": 0.0, "blur": 0.0}
    method = {"name": "simclr", "options": {"views": nothing}}
    location = submit(striped, method=method, epochs=100, encoder=TINY)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "two views of an image are one" in job["error"]
    assert len(versions(striped)) == 1


def test_a_rate_that_is_too_high_fails_with_advice(striped, do):
    location = submit(
        striped, rate=10.0, optimizer="sgd", method={"name": "simclr"}, epochs=200, encoder=TINY
    )

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed", job
    assert "rate" in job["error"]


def test_the_terminal_shows_how_it_goes(striped, do):
    location = submit(striped)
    do(striped)

    notes = [line.note for line in terminal_lines(striped, location)]

    assert any("loss by chance 3.135, rank" in note for note in notes)
    assert any("accuracy of neighbours" in note and "s left" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"batch_size": 64}, 409, "36 images, fewer than a batch of 64: upload 28 more"),
        ({"method": {"name": "jigsaw"}, "encoder": SMALL}, 422, "use rotation, mae, simclr"),
        ({"method": {"name": "jigsaw"}, "encoder": TINY}, 422, "too small for this encoder"),
        ({"encoder": SMALL, "start": "continue"}, 422, "no weights to continue from"),
        (
            {
                "encoder": {
                    "name": "timm",
                    "options": {"model": "resnet18", "weights": "/etc/passwd"},
                }
            },
            422,
            "random weights",
        ),
        ({"method": {"name": "nothing"}}, 422, "nothing"),
        ({"method": {"name": "simclr", "options": {"contrast": {"tau": 1}}}}, 422, "tau"),
        (
            {"method": {"name": "simclr", "options": {"contrast": {"temperature": 0}}}},
            422,
            "above 0",
        ),
        ({"method": {"name": "simclr", "options": {"views": {"crop": 0}}}}, 422, "crop must be"),
        ({"batch_size": 1}, 422, "batch_size"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(striped, options, status, says):
    answer = striped.post(JOBS, json={"kind": "pretrain", "options": OPTIONS | options})

    assert answer.status_code == status, answer.text
    assert says in answer.text
