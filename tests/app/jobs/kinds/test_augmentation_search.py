"""The job that searches for an augmentation, done in this process."""

import pytest
import torch

from app.cli import terminal
from handful.contract.jobs import JobRead
from models.augmentation_search.proxy import Proxy
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, lose_files, terminal_lines

GRID = {"name": "grid", "options": {"n": [1], "m": [3, 6, 9]}}
SEARCHES = {
    "grid": GRID,
    "reinforce": {"name": "reinforce", "options": {"trials": 3, "sub_policies": 2}},
    "per_class": {"name": "per_class", "options": {"crops": [1.0, 0.3]}},
}


def submit(service, search="grid", **options):
    body = {"search": SEARCHES[search], "images": 16, "views": 1} | options
    return submit_job(service, "augmentation_search", body)


@pytest.mark.parametrize("search", SEARCHES)
def test_what_is_found_can_be_fine_tuned_with(striped, do, search):
    location = submit(striped, search)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    assert result["trials"] == 3 + (search == "per_class")  # the default crop, and the proposal
    assert result["score"] < 0
    assert 0 <= result["accuracy"] <= 1
    assert set(result["baseline"]) == {"score", "accuracy"}
    assert result["accepted"] == result["verdict"]["better"]
    assert result["verdict"]["images"] == 16
    assert "trivialaugment" in result["verdict"]["against"]
    options = {"augmentation": result["augmentation"]}
    submit_job(striped, "finetune", options)


def test_every_trial_tells_its_policy_score_accuracy_and_time_left(striped, do):
    location = submit(striped)

    do(striped)

    trials = events(striped, location)
    assert [(data["stage"], data["trial"], data["trials"]) for data in trials] == [
        ("search", 1, 3),
        ("search", 2, 3),
        ("search", 3, 3),
    ]
    assert [data["policy"]["augmentation"][0]["options"]["m"] for data in trials] == [3, 6, 9]
    assert all(data["score"] < 0 and 0 <= data["accuracy"] <= 1 for data in trials)
    assert trials[-1]["seconds_left"] == 0
    best = max(trials, key=lambda data: data["score"])
    result = striped.get(location).json()["result"]
    assert {key: result[key] for key in best["policy"]} == best["policy"]
    assert result["score"] == best["score"]


def test_labels_whose_stripes_a_turn_would_swap_do_without_it(striped, do):
    turned = {"name": "per_class", "options": {"crops": [0.5], "geometric": {"degrees": 90}}}
    still = {"name": "per_class", "options": {"crops": [0.5], "geometric": {"degrees": 0}}}
    scores = []
    for search in (turned, still):
        location = submit_job(striped, "augmentation_search", {"search": search})
        do(striped)
        scores.append(striped.get(location).json()["result"]["score"])

    assert scores[0] < scores[1]


@pytest.mark.parametrize(
    ("search", "after", "remembered"), [("grid", 1, 0), ("grid", 3, 3), ("reinforce", 3, 3)]
)
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    striped, do, monkeypatch, search, after, remembered
):
    judge, judged = Proxy._judge, list[object]()

    def count(*arguments):
        judged.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(Proxy, "_judge", count)
    whole = submit(striped, search)
    do(striped)
    expected, needed = striped.get(whole).json()["result"], len(judged)
    location = submit(striped, search)
    interrupt(striped, do, location, Proxy, "_judge", after)
    judged.clear()

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"] == expected
    numbers = [data["trial"] for data in events(striped, location)]
    assert numbers == list(range(1, expected["trials"] + 1))
    assert len(judged) == needed - remembered  # a checkpoint is written after each trial


def test_images_that_cannot_be_read_any_more_are_left_out(striped, do):
    lose_files(striped, 3, "level")
    location = submit(striped, images=32)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["verdict"]["images"] == 29
    (skipped,) = events(striped, location, "message")
    assert skipped["skipped"] == 3


def test_too_few_readable_images_fail_the_job_with_advice(striped, do):
    location = submit(striped, images=32)
    lose_files(striped, 15, "level")

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "upload the missing ones again" in job["error"]


def test_too_few_images_for_the_labels_fail_the_job_with_advice(striped, do, stripes):
    for way in ("steep", "slanted"):
        files = [("files", stripes(way, 200 + 10 * len(way) + seed)) for seed in range(2)]
        striped.post(f"/v1/projects/birds/labels/{way}/support", files=files)
    location = submit(striped, images=7)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "use at least 8" in job["error"]


def test_without_memory_there_is_advice(striped, do, monkeypatch):
    location = submit(striped)

    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Proxy, "_judge", exhausted)

    do(striped)

    assert "use fewer images than 16" in striped.get(location).json()["error"]


def test_a_project_without_labels_is_refused(birds):
    answer = birds.post(JOBS, json={"kind": "augmentation_search"})

    assert answer.status_code == 409
    assert answer.json()["missing_labels"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"image": 3},
        {"images": 3},
        {"views": 0},
        {"folds": 1},
        {"seed": -1},
        {"search": {"name": "guess"}},
        {"search": {"name": "grid", "options": {"n": [0]}}},
        {"search": {"name": "per_class", "options": {"crops": [2]}}},
        {"search": {"name": "reinforce", "options": {"trials": 0}}},
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(birds, options):
    answer = birds.post(JOBS, json={"kind": "augmentation_search", "options": options})

    assert answer.status_code == 422, answer.text
    assert "/body" in answer.json()["detail"]


def test_the_same_search_is_refused_until_the_labels_change(striped, stripes):
    submit(striped)
    options = {"search": GRID, "images": 16, "views": 1}

    refused = striped.post(JOBS, json={"kind": "augmentation_search", "options": options})
    files = [("files", stripes("level", 70))]
    striped.post("/v1/projects/birds/labels/level/support", files=files)

    assert refused.status_code == 409
    submit(striped)


def test_a_terminal_shows_the_trials_and_what_came_out(striped, do):
    location = submit(striped)
    do(striped)
    job = JobRead.model_validate(striped.get(location).json())

    line = terminal_lines(striped, location)[-1]

    assert (line.title, line.share) == ("trial 3 of 3", 1)
    assert "held-out" in line.note
    assert terminal._short(job) == f"randaugment; {job.result.verdict.reason}"
