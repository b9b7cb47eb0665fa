"""The job that learns a head, done in this process."""

import pytest

from app.jobs.verdicts import new_labels
from models import metalearning
from models.evaluation.comparison import Verdict
from models.metalearning.learners import learners
from models.training.loop import Training
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, terminal_lines, versions
from tests.app.jobs.kinds.test_metatrain import EACH, LABELS, draw

PROJECT = "/v1/projects/birds"
FEAT = {"name": "feat", "options": {"width": 4}}
OPTIONS = {
    "method": FEAT,
    "ways": [3, 4],
    "shots": [1, 2],
    "queries": 2,
    "episodes": 200,
    "rate": 0.01,
}

SHOTS = ("1 shot", "2 shots")
RECIPE = {"epochs": 1, "rate": 1e-6}


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    """To choose and to judge with, enough to see that it is done."""
    monkeypatch.setattr(new_labels, "EPISODES", 8)
    monkeypatch.setattr(metalearning, "VALIDATION_EPISODES", 8)


@pytest.fixture
def characters(filled):
    """A service whose project `birds` has characters of 12 labels."""
    return filled("characters", lambda service: draw(service, "birds", range(LABELS)))


def submit(service, **options):
    return submit_job(service, "metatrain", OPTIONS | options)


def verdict_of(*, better: bool) -> Verdict:
    return Verdict(better, float(better), 0.9, 0.8, 0.0, "as the test wants")


def weights(service, head: str) -> bytes:
    return service.get(f"{PROJECT}/heads/{head}/weights").content


def test_labels_teach_a_head_that_serves_and_nothing_is_embedded_anew(characters, do):
    before = characters.get(PROJECT).json()
    location = submit(characters, promote="always")

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    assert result["promoted"]
    assert result["summary"].startswith(f"head {result['head']} promoted; ")
    after = characters.get(PROJECT).json()
    assert after["head"] == {"name": "learned", "options": {"learned": result["head"]}}
    assert after["encoder"] == before["encoder"]
    assert len(versions(characters)) == 1

    (head,) = characters.get(f"{PROJECT}/heads").json()["items"]
    assert (head["id"], head["method"], head["options"]) == (result["head"], "feat", {"width": 4})
    assert head["current"]
    assert head["job"] == job["id"]
    verdict = result["verdict"]
    assert head["metrics"]["labels"] == verdict["labels"]
    rivals = ("frozen", "champion")  # the project has another head than `auto`
    assert set(verdict["against"]) == {f"{w} at {n}" for w in rivals for n in SHOTS}
    assert verdict["images"] == len(verdict["labels"]["test"]) * EACH
    report = characters.get(f"{PROJECT}/report").json()
    assert report["chosen"]["name"] == "learned"

    # What it learned from is of the labels that taught it, and counted wherever it is judged.
    seen = EACH * (LABELS - len(verdict["labels"]["test"]))
    assert report["learned_images"] == seen
    assert f"learned from {seen} of the {EACH * LABELS} labeled images" in report["optimistic"]
    asked = {"ways": 2, "shots": [1], "queries": 2, "episodes": 2, "seconds": 60}
    heads = [{"name": "cosine"}, after["head"]]
    models = characters.post(f"{PROJECT}/evaluate", json=asked | {"heads": heads}).json()["models"]
    assert [model["learned_images"] for model in models] == [0, seen]

    epochs = [data for data in events(characters, location) if data["stage"] == "meta-training"]
    assert [(data["epoch"], data["epochs"], data["method"]) for data in epochs] == [
        (1, 2, "feat"),
        (2, 2, "feat"),
    ]
    assert terminal_lines(characters, location)[1].title == "feat"


OF_HEADS = [name for name, method in learners.items() if hasattr(method, "network")]


@pytest.mark.parametrize("method", sorted({*OF_HEADS} - {"feat"}))
def test_other_methods_serve_as_well(characters, do, png, method):
    location = submit(
        characters, method={"name": method}, episodes=2, ways=3, shots=1, promote="always"
    )

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert characters.get(PROJECT).json()["head"]["options"]["learned"] == job["result"]["head"]
    answer = characters.post(f"{PROJECT}/classify", files=[("files", png("red"))])
    assert answer.status_code == 200, answer.text
    assert characters.get(f"{PROJECT}/report").status_code == 200


def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(characters, do):
    whole = submit(characters, promote="never")
    do(characters)
    location = submit(characters, promote="never")

    interrupt(characters, do, location, Training, "__next__", 1)
    do(characters)

    jobs = [characters.get(where).json() for where in (whole, location)]
    assert [(job["state"], job["attempt"]) for job in jobs] == [("succeeded", 1), ("succeeded", 2)]
    first, second = (job["result"]["head"] for job in jobs)
    assert first != second
    assert weights(characters, first) == weights(characters, second)


def test_a_job_that_was_interrupted_after_it_saved_makes_one_head(characters, do):
    location = submit(characters, promote="always")

    interrupt(characters, do, location, type(characters.app.state.parts.queue), "finish")
    do(characters)

    job = characters.get(location).json()
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert [head["id"] for head in characters.get(f"{PROJECT}/heads").json()["items"]] == [
        job["result"]["head"]
    ]
    assert job["result"]["promoted"]


def test_images_that_the_version_has_not_embedded_are_embedded_for_it(characters, do):
    characters.post("/v1/projects", json={"name": "earlier"})
    draw(characters, "earlier", range(20, 28))
    location = submit(characters, projects=["earlier"])

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    labels = job["result"]["verdict"]["labels"]
    assert labels["test"] == [f"c{n:02}" for n in range(LABELS)]
    assert sorted(labels["train"] + labels["validation"]) == [
        f"earlier/c{n}" for n in range(20, 28)
    ]


def test_a_head_that_is_better_does_not_push_aside_one_that_was_set_meanwhile(
    characters, do, monkeypatch
):
    monkeypatch.setattr(
        "app.jobs.verdicts.new_labels.compare_on_episodes",
        lambda *_, **__: verdict_of(better=True),
    )
    location = submit(characters)
    chosen = {"name": "cosine", "options": {"temperature": None, "centered": True}}
    step = Training.__next__

    def step_while_somebody_chooses(training):
        characters.patch(PROJECT, json={"head": chosen})
        return step(training)

    monkeypatch.setattr(Training, "__next__", step_while_somebody_chooses)
    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["verdict"]["better"]
    assert not job["result"]["promoted"]
    assert characters.get(PROJECT).json()["head"] == chosen
    assert any(
        "was promoted meanwhile" in message["text"]
        for message in events(characters, location, "message")
    )


@pytest.mark.parametrize("better", [True, False])
def test_the_verdict_decides(characters, do, monkeypatch, better):
    monkeypatch.setattr(
        "app.jobs.verdicts.new_labels.compare_on_episodes",
        lambda *_, **__: verdict_of(better=better),
    )
    location = submit(characters)

    do(characters)

    result = characters.get(location).json()["result"]
    assert result["promoted"] == better
    assert (characters.get(PROJECT).json()["head"]["name"] == "learned") == better


def test_what_serves_is_its_rival(characters, do):
    submit(characters, promote="always")
    do(characters)
    location = submit(characters, seed=1)

    do(characters)

    against = characters.get(location).json()["result"]["verdict"]["against"]
    assert set(against) == {f"{w} at {n}" for w in ("frozen", "champion") for n in SHOTS}


def test_an_encoder_that_would_replace_its_version_is_compared_with_it(characters, do):
    submit(characters, promote="always")
    do(characters)
    location = submit_job(
        characters,
        "finetune",
        {
            "methods": [{"name": "feature_extraction"}],
            "recipe": {"epochs": 1, "rate": 1e-6},
            "folds": 2,
        },
    )

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert set(job["result"]["verdict"]["against"]) == {"prototypes", "champion"}


@pytest.mark.parametrize(
    "options", [{"start": "random"}, {"encoder": {"name": "conv4", "options": {"width": 8}}}]
)
def test_a_head_has_no_encoder_to_start_from(birds, options):
    answer = birds.post(JOBS, json={"kind": "metatrain", "options": OPTIONS | options})

    assert answer.status_code == 422
    assert "leaves the encoder as it is" in answer.json()["detail"]
