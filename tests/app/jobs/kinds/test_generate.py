"""The job that learns where the rest of a class lies, done in this process."""

import pytest
import torch

from app.jobs.generation import suitability, verdicts
from app.sql.lookups import find_project
from models import generation
from models.evaluation.comparison import Verdict
from models.generation import choice, tasks
from models.training.loop import Training
from tests import databases
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, terminal_lines, versions

database_url = databases.each
PROJECT = "/v1/projects/birds"
CVAE = {"name": "cvae", "options": {"steps": 200, "width": 8, "latent": 2, "samples": 8}}
OPTIONS = {"groups": [{"name": "nearest"}, {"name": "clusters"}, CVAE]}


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch):
    """To choose and to judge with, enough to see that it is done."""
    monkeypatch.setattr(tasks, "TASKS", 4)
    monkeypatch.setattr(tasks, "FEWEST_IMAGES", 8)


@pytest.fixture
def pooled(striped, stripes, monkeypatch):
    """With 24 images in the pool, in two clusters."""
    files = [("files", stripes(way, 60 + n)) for n in range(10) for way in ("level", "upright")]
    striped.post(f"{PROJECT}/pool", files=files).raise_for_status()
    monkeypatch.setattr(generation, "FEWEST", 6)
    monkeypatch.setattr(generation, "MOST_CLUSTERS", 2)
    return striped


def submit(service, **options):
    return submit_job(service, "generate", OPTIONS | options)


def refusal(service, **options):
    answer = service.post(JOBS, json={"kind": "generate", "options": OPTIONS | options})
    return answer.status_code, answer.json()


def succeeded(service, location):
    job = service.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    return job["result"]


def weights(service, head: str) -> bytes:
    return service.get(f"{PROJECT}/heads/{head}/weights").content


def better(monkeypatch):
    """Whatever is tried is better than all else."""
    verdict = Verdict(True, 0.99, 0.9, 0.8, 0.0, "as the test wants")
    monkeypatch.setattr(choice, "compare_on_episodes", lambda *_: verdict)
    monkeypatch.setattr(choice, "cautious_gain", lambda *_: 0.1)


def test_centroids_are_moved_where_that_is_better_and_the_head_serves(
    pooled, do, stripes, monkeypatch
):
    better(monkeypatch)
    location = submit(pooled)

    do(pooled)

    result = succeeded(pooled, location)
    assert result["promoted"]
    project = pooled.get(PROJECT).json()
    assert project["head"] == {"name": "learned", "options": {"learned": result["head"]}}
    assert len(versions(pooled)) == 1
    (head,) = pooled.get(f"{PROJECT}/heads").json()["items"]
    assert (head["id"], head["method"], head["current"]) == (
        result["head"],
        "moved_centroids",
        True,
    )
    assert head["options"]["groups"] == ["nearest", "nearest", "nearest", "none"]
    assert head["options"]["weights"] == [0.25, 0.25, 0.25, 0.0]
    verdict = result["verdict"]
    assert verdict["better"]
    assert [row["judged_by"] for row in verdict["choices"]] == ["labels", "labels", "labels", ""]
    rivals = {name.partition(" at ")[0] for name in verdict["against"]}
    assert rivals == {"blend", "cosine", "champion", "clusters", "cvae"}
    assert "nearest with a weight of 0.25 at 1" in verdict["reason"]
    answer = pooled.post(f"{PROJECT}/classify", files=[("files", stripes("level", 70))])
    assert answer.status_code == 200, answer.text
    report = pooled.get(f"{PROJECT}/report").json()
    assert report["chosen"]["name"] == "learned"
    assert report["learned_images"] == 32
    lines = terminal_lines(pooled, location)
    assert lines[0].title.startswith("cvae, ")
    assert lines[-1].title == "weights"
    (picture,) = events(pooled, location, "picture")
    assert picture["url"].startswith("data:image/png")
    assert "nearest to what is generated" in picture["text"]


def test_where_nothing_is_ahead_all_weights_are_0_and_it_says_so(pooled, do, monkeypatch):
    monkeypatch.setattr(choice, "cautious_gain", lambda *_: -0.1)
    monkeypatch.setattr(
        choice,
        "compare_on_episodes",
        lambda *_: Verdict(False, 0.4, 0.8, 0.9, 0.0, "as the test wants"),
    )
    location = submit(pooled)

    do(pooled)

    result = succeeded(pooled, location)
    assert not result["promoted"]
    assert not result["verdict"]["better"]
    assert "all weights are 0, and it is `blend`" in result["verdict"]["reason"]
    (head,) = pooled.get(f"{PROJECT}/heads").json()["items"]
    assert head["options"]["weights"] == [0.0] * 4


def test_an_interrupted_job_ends_bit_for_bit_as_if_it_had_not_been(pooled, do, monkeypatch):
    better(monkeypatch)
    groups = [CVAE]
    whole = submit(pooled, groups=groups, promote="never")
    do(pooled)
    expected = succeeded(pooled, whole)
    for after in (1, 4):
        location = submit(pooled, groups=groups, promote="never")

        interrupt(pooled, do, location, Training, "__next__", after)
        do(pooled)

        result = succeeded(pooled, location)
        assert pooled.get(location).json()["attempt"] == 2
        assert result["head"] != expected["head"]
        assert weights(pooled, result["head"]) == weights(pooled, expected["head"])
        assert result["verdict"] == expected["verdict"]
        curves = [[(e["run"], e["epoch"], e["loss"]) for e in events(pooled, at)] for at in
                (location, whole)]  # fmt: skip
        assert curves[0] == curves[1]


def test_a_pool_without_labels_teaches_as_well(birds, do, stripes):
    files = [("files", stripes(way, seed)) for seed in range(20) for way in ("level", "upright")]
    birds.post(f"{PROJECT}/pool", files=files).raise_for_status()
    location = submit(birds, groups=[{"name": "clusters"}])

    do(birds)

    assert "head" in succeeded(birds, location)


def test_too_few_images_in_every_class_and_no_pool_are_refused_with_what_is_missing(birds, stripes):
    for way, count in (("level", 7), ("upright", 3)):
        files = [("files", stripes(way, seed)) for seed in range(count)]
        birds.post(f"{PROJECT}/labels/{way}/support", files=files).raise_for_status()

    status, problem = refusal(birds)

    assert (status, problem["type"]) == (409, "/problems/groups-do-not-suffice")
    assert problem["missing_images"] == {"level": 1, "upright": 5}
    assert (problem["missing_groups"], problem["missing_pool_images"]) == (2, 16)
    assert "1 to label 'level' and 5 to label 'upright'" in problem["detail"]


def test_one_class_and_no_pool_are_refused(birds, stripes):
    files = [("files", stripes("level", seed)) for seed in range(12)]
    birds.post(f"{PROJECT}/labels/level/support", files=files).raise_for_status()

    status, problem = refusal(birds)

    assert status == 409
    assert "1 more label(s) with 8 images" in problem["detail"]


def test_an_empty_project_is_refused(birds):
    status, problem = refusal(birds)

    assert status == 409
    assert "there is no label, and the pool has 0 images" in problem["detail"]


def test_a_pool_whose_clusters_are_all_one_fails_with_a_reason(birds, do, png, monkeypatch):
    files = [("files", png("red", n)) for n in range(20)]
    birds.post(f"{PROJECT}/pool", files=files).raise_for_status()
    monkeypatch.setattr(
        "app.jobs.kinds.generate.center_and_normalize",
        lambda both, _: torch.ones_like(both) / both.shape[1] ** 0.5,
    )
    location = submit(birds)

    do(birds)

    job = birds.get(location).json()
    assert job["state"] == "failed"
    assert "they are all alike" in job["error"]


def test_more_generated_embeddings_than_memory_are_refused_with_what_fits(striped, monkeypatch):
    monkeypatch.setattr(suitability, "memory_of", lambda _: 1 << 20)
    greedy = {"name": "cvae", "options": {"samples": 100_000}}

    status, problem = refusal(striped, groups=[greedy])

    assert (status, problem["type"]) == (422, "/problems/not-enough-memory")
    (fitting,) = problem["fitting"]
    assert f"ask for {fitting['options']['samples']} `samples` or fewer" in problem["detail"]


def test_an_encoder_promoted_meanwhile_keeps_the_head_from_serving(
    pooled, do, monkeypatch, make_version
):
    better(monkeypatch)
    location = submit(pooled, groups=[CVAE])
    step = Training.__next__
    promoted: list[bool] = []

    def step_while_somebody_promotes(training):
        if not promoted:
            promoted.append(True)
            parts = pooled.app.state.parts
            version = make_version(parts.db)
            with parts.db.writing() as session:
                find_project(session, "birds").encoder_id = version
        return step(training)

    monkeypatch.setattr(Training, "__next__", step_while_somebody_promotes)
    do(pooled)

    result = succeeded(pooled, location)
    assert result["verdict"]["better"]
    assert not result["promoted"]
    assert any(
        "another version or head was promoted meanwhile" in message["text"]
        for message in events(pooled, location, "message")
    )


def test_a_posterior_that_collapsed_is_told(pooled, do):
    collapsing = {"name": "cvae", "options": {"steps": 200, "beta": 1000.0, "width": 8}}
    location = submit(pooled, groups=[collapsing])

    do(pooled)

    succeeded(pooled, location)
    (message,) = events(pooled, location, "message")
    assert message["text"].startswith("posterior collapse: none of the latent numbers")


def test_options_that_cannot_be_are_refused(striped):
    assert refusal(striped, groups=[])[0] == 422
    assert refusal(striped, groups=[{"name": "clusters"}] * 2)[0] == 422
    assert refusal(striped, groups=[{"name": "text"}])[0] == 422
    assert refusal(striped, groups=[{"name": "cvae", "options": {"latent": 0}}])[0] == 422


def test_what_serves_is_not_replaced_by_a_worse_blend():
    ahead, behind = (Verdict(p > 0.5, p, 0.8, 0.7, 0.0, "") for p in (0.95, 0.05))
    moving = choice.Choice(1, "clusters", 0.5, "clusters", "labels", {"blend": ahead}, {})
    still = choice.Choice(20, "none", 0.0, "cvae", "labels", {}, {"champion": behind})

    verdict = verdicts.judge_choices([moving, still], 40)

    assert not verdict.better
    assert verdict.reason == "at 20 shots no centroid moves, and `blend` is behind what serves"
