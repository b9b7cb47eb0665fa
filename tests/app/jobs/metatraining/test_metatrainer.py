"""What happens to a training on episodes while it runs."""

import io
import itertools

import pytest
from PIL import Image
from torch import nn

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.inner_loop import slopes
from models.metalearning.learners import maml
from models.training.loop import Training
from tests import databases
from tests.app.jobs.conftest import submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, losses_and_weights
from tests.app.jobs.kinds.test_metatrain import EACH, OPTIONS, TINY, draw, few_episodes, refusal
from tests.characters import draw_character
from tests.learned_heads import add_learned_head

__all__ = ["few_episodes"]
database_url = databases.each
PROJECT = "/v1/projects/birds"
FEAT = {"method": {"name": "feat", "options": {"width": 4}}}
SMALL = OPTIONS | {"episodes": 2, "ways": 2, "shots": 1, "promote": "never"}


@pytest.fixture
def characters(filled):
    """A service whose project `birds` has characters of six labels."""
    return filled("few characters", lambda service: draw(service, "birds", range(6), each=3))


def between_epochs(monkeypatch, change) -> None:
    """Have something happen while a job learns."""
    step = Training.__next__

    def change_and_step(training):
        monkeypatch.setattr(Training, "__next__", step)
        change()
        return step(training)

    monkeypatch.setattr(Training, "__next__", change_and_step)


@pytest.mark.parametrize("options", [{"encoder": TINY}, FEAT], ids=["encoder", "head"])
def test_labels_and_images_that_are_removed_meanwhile_were_learned_all_the_same(
    characters, do, monkeypatch, options
):
    images = characters.get(f"{PROJECT}/images?label=c00").json()["items"]

    def remove() -> None:
        assert characters.delete(f"{PROJECT}/images/{images[0]['id']}").status_code == 204
        for label in ("c01", "c02"):
            assert characters.delete(f"{PROJECT}/labels/{label}").status_code == 204

    between_epochs(monkeypatch, remove)
    location = submit_job(characters, "metatrain", SMALL | options | {"promote": "always"})

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    labels = job["result"]["verdict"]["labels"]
    assert sorted(itertools.chain(*labels.values())) == [f"c{n:02}" for n in range(6)]
    report = characters.get(f"{PROJECT}/report")
    assert report.status_code == 200
    assert report.json()["learned_images"] <= 3 * 3 + 2  # of what is there still


def test_a_head_that_is_deleted_meanwhile_is_no_rival(characters, do, monkeypatch):
    head = add_learned_head(characters.app.state.parts, "birds")
    choice = {"name": "learned", "options": {"learned": str(head)}}
    characters.patch(PROJECT, json={"head": choice}).raise_for_status()

    def delete() -> None:
        characters.patch(PROJECT, json={"head": {"name": "cosine"}}).raise_for_status()
        assert characters.delete(f"{PROJECT}/heads/{head}").status_code == 204

    between_epochs(monkeypatch, delete)
    location = submit_job(characters, "metatrain", SMALL | FEAT)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert set(job["result"]["verdict"]["against"]) == {"frozen at 1 shot"}
    (message,) = events(characters, location, "message")
    assert message["text"] == f"learned head {head} was deleted: what serves is judged with `auto`"


def test_a_project_that_is_deleted_before_the_job_starts_is_named(characters, do):
    characters.post("/v1/projects", json={"name": "earlier"})
    draw(characters, "earlier", range(10, 14), each=EACH)
    location = submit_job(characters, "metatrain", SMALL | FEAT | {"projects": ["earlier"]})
    characters.delete("/v1/projects/earlier")

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "failed"
    assert "a project in `projects` was deleted since the job was started" in job["error"]


def test_images_of_other_projects_may_have_another_side(characters, do):
    characters.post("/v1/projects", json={"name": "earlier"})
    for label in range(10, 13):
        pictures = [draw_character(label, number).resize((60, 40)) for number in range(3)]
        files = [("files", png(picture)) for picture in pictures]
        answer = characters.post(f"/v1/projects/earlier/labels/{label}/support", files=files)
        assert answer.status_code == 201, answer.text
    location = submit_job(characters, "metatrain", SMALL | FEAT | {"projects": ["earlier"]})

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert set(job["result"]["verdict"]["labels"]["train"]) == {
        f"earlier/{label}" for label in range(10, 13)
    }


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_an_inner_loop_that_comes_to_no_number_fails_with_its_step(characters, do, monkeypatch):
    def lose_numbers(*values, step, **options):
        return [slope / (step != 2) for slope in slopes(*values, step=step, **options)]

    monkeypatch.setattr(maml, "slopes", lose_numbers)
    location = submit_job(
        characters, "metatrain", SMALL | {"encoder": TINY, "method": {"name": "maml"}}
    )

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "failed"
    assert job["error"] == (
        "the loss of an episode was nan in step 2 of the inner loop: lower the inner rate"
    )


def test_an_encoder_whose_norms_leak_is_refused_by_their_names(characters, monkeypatch):
    build = Conv4.build

    def leak(options, *, pretrained: bool = True):
        encoder = build(options, pretrained=pretrained)
        encoder.stages[0].register_module("1", nn.BatchNorm2d(8, track_running_stats=False))
        return encoder

    monkeypatch.setattr(Conv4, "build", leak)

    detail = refusal(characters, **SMALL, encoder=TINY)["detail"]

    assert detail.startswith("stages.0.1 normalise by the other images of a batch")
    assert "use an encoder whose batch norms keep running statistics" in detail


FOLDED = {"folds": 3, "queries": 1, "promote": "never"}


@pytest.mark.parametrize("options", [{"encoder": TINY}, FEAT], ids=["encoder", "head"])
def test_in_folds_each_label_is_judged_once_by_what_has_not_seen_it(characters, do, options):
    location = submit_job(characters, "metatrain", SMALL | FOLDED | options)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    verdict = job["result"]["verdict"]
    everything = [f"c{n:02}" for n in range(6)]
    assert verdict["labels"]["train"] == everything
    assert sorted(label for fold in verdict["labels"]["folds"] for label in fold) == everything
    assert [len(fold) for fold in verdict["labels"]["folds"]] == [2, 2, 2]
    assert verdict["images"] == 6 * 3
    told = [(data["run"], data["fold"]) for data in events(characters, location)]
    assert told == [(1, 1), (2, 2), (3, 3), (4, None)]
    shares = [data["share"] for data in events(characters, location)]
    assert shares == [0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("after", [1, 3])
def test_folds_that_were_interrupted_go_on_as_if_they_had_not_been(characters, do, after):
    asked = SMALL | FOLDED | {"encoder": TINY, "seed": 1}
    whole = submit_job(characters, "metatrain", asked)
    do(characters)
    location = submit_job(characters, "metatrain", asked)
    interrupt(characters, do, location, Training, "__next__", 2 * after)

    do(characters)

    assert losses_and_weights(characters, location) == losses_and_weights(characters, whole)
    verdicts = [characters.get(job).json()["result"]["verdict"] for job in (whole, location)]
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 2}, "of labels with 3 images each, folds must be from 3"),
        ({"folds": 3, "test": ["c00", "c01"]}, "name none"),
        ({"folds": 7}, "folds must be from 3 to the number of labels, 6"),
        ({"folds": 4}, "to judge with, 2 labels"),
    ],
)
def test_folds_that_cannot_be_are_refused(characters, options, words):
    assert words in refusal(characters, **SMALL | options)["detail"]
