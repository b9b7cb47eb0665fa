"""The job that searches for an augmentation, done in this process."""

import io
from uuid import UUID

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn
from sqlalchemy import select

from app.cli import terminal
from app.sql.tables import Image, Label
from handful.contract.jobs import EventsRead, JobRead
from models.augmentation_search.proxy import Proxy

JOBS = "/v1/projects/birds/jobs"
GRID = {"name": "grid", "options": {"n": [1], "m": [3, 6, 9]}}
SEARCHES = {
    "grid": GRID,
    "reinforce": {"name": "reinforce", "options": {"trials": 3, "sub_policies": 2}},
    "per_class": {"name": "per_class", "options": {"crops": [1.0, 0.3]}},
}


def submit(service, search="grid", **options):
    given = {"search": SEARCHES[search], "images": 16, "views": 1} | options
    answer = service.post(JOBS, json={"kind": "augmentation_search", "options": given})
    assert answer.status_code == 202, answer.text
    return answer.headers["Location"]


def events(service, location, kind="metrics"):
    items = service.get(f"{location}/events").json()["items"]
    return [event["data"] for event in items if event["kind"] == kind]


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
    tuning = striped.post(JOBS, json={"kind": "finetune", "options": options})
    assert tuning.status_code == 202, tuning.text


def test_every_trial_tells_its_policy_score_accuracy_and_time_left(striped, do):
    location = submit(striped)

    do(striped)

    told = events(striped, location)
    assert [(one["stage"], one["trial"], one["trials"]) for one in told] == [
        ("search", 1, 3),
        ("search", 2, 3),
        ("search", 3, 3),
    ]
    assert [one["policy"]["augmentation"][0]["options"]["m"] for one in told] == [3, 6, 9]
    assert all(one["score"] < 0 and 0 <= one["accuracy"] <= 1 for one in told)
    assert told[-1]["seconds_left"] == 0
    best = max(told, key=lambda one: one["score"])
    result = striped.get(location).json()["result"]
    assert {key: result[key] for key in best["policy"]} == best["policy"]
    assert result["score"] == best["score"]


def test_labels_whose_stripes_a_turn_would_swap_do_without_it(striped, do):
    turned = {"name": "per_class", "options": {"crops": [0.5], "geometric": {"degrees": 90}}}
    still = {"name": "per_class", "options": {"crops": [0.5], "geometric": {"degrees": 0}}}
    scores = []
    for search in (turned, still):
        location = striped.post(
            JOBS, json={"kind": "augmentation_search", "options": {"search": search}}
        ).headers["Location"]
        do(striped)
        scores.append(striped.get(location).json()["result"]["score"])

    assert scores[0] < scores[1]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("search", "after", "kept"), [("grid", 1, 0), ("grid", 3, 3), ("reinforce", 3, 3)]
)
def test_an_interrupted_search_ends_as_if_it_had_not_been(
    striped, do, monkeypatch, search, after, kept
):
    judge, judgements = Proxy._judge, iter(range(after))
    judged: list[object] = []

    def count(*given):
        judged.append(given)
        return judge(*given)

    monkeypatch.setattr(Proxy, "_judge", count)
    whole = submit(striped, search)
    do(striped)
    expected, needed = striped.get(whole).json()["result"], len(judged)
    location = submit(striped, search)

    def until_killed(self, candidate):
        if next(judgements, None) is None:
            raise Killed
        return judge(self, candidate)

    monkeypatch.setattr(Proxy, "_judge", until_killed)
    with pytest.raises(Killed):
        do(striped)
    judged.clear()
    monkeypatch.setattr(Proxy, "_judge", count)
    state = striped.app.state.parts
    with state.queue.db.writing() as session:
        job = state.queue.read("birds", UUID(location.rpartition("/")[2]))
        session.merge(job).lease_until = job.created_at

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"] == expected
    numbers = [one["trial"] for one in events(striped, location)]
    assert numbers == list(range(1, expected["trials"] + 1))
    assert len(judged) == needed - kept  # a checkpoint is written after each trial


def test_images_that_cannot_be_read_any_more_are_left_out(striped, do):
    lose(striped, "level", 3)
    location = submit(striped, images=32)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["verdict"]["images"] == 29
    (skipped,) = events(striped, location, "message")
    assert skipped["skipped"] == 3


def test_too_few_readable_images_fail_the_job_with_advice(striped, do):
    location = submit(striped, images=32)
    lose(striped, "level", 15)

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

    again = striped.post(JOBS, json={"kind": "augmentation_search", "options": options})
    files = [("files", stripes("level", 70))]
    striped.post("/v1/projects/birds/labels/level/support", files=files)

    assert again.status_code == 409
    submit(striped)


def test_a_terminal_shows_the_trials_and_what_came_out(striped, do):
    location = submit(striped)
    do(striped)
    job = JobRead.model_validate(striped.get(location).json())
    bar = Progress(TextColumn("{task.description}"), console=Console(file=io.StringIO()))
    task = bar.add_task("queued", total=1.0, note="")

    for event in EventsRead.model_validate(striped.get(f"{location}/events").json()).items:
        if event.kind == "metrics":
            terminal._show(bar, task, event)

    assert bar.tasks[0].description == "trial 3 of 3"
    assert bar.tasks[0].completed == 1
    assert "held-out" in bar.tasks[0].fields["note"]
    assert terminal._short(job) == f"randaugment; {job.result.verdict.reason}"


def lose(service, label, count):
    """Remove the files of some images of a label."""
    state = service.app.state.parts
    with state.queue.db.reading() as session:
        label_id = session.scalars(select(Label.id).where(Label.name == label)).one()
        digests = session.scalars(select(Image.sha256).where(Image.label_id == label_id))
        lost = list(digests)[:count]
    for digest in lost:
        state.promotions.blobs.remove(digest)
