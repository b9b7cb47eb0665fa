"""The job that learns across labels, done in this process."""

import math
import re
from uuid import UUID

import pytest
from sqlalchemy import select

from app.jobs.verdicts import new_labels
from app.sql.tables import TrainingImage
from models import metalearning
from models.metalearning.adaptation import restore
from models.metalearning.learners import learners
from models.training.loop import Diverged, Training
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, lose_files, terminal_lines, versions
from tests.characters import SIDE, character_file

LABELS, EACH = 12, 4
MIB = 1 << 20
OPTIONS = {"ways": [3, 4], "shots": [1, 2], "queries": 2, "episodes": 10, "rate": 0.003}
TINY = {"name": "conv4", "options": {"width": 8, "image_side": SIDE}}


def draw(service, project: str, labels: range, first: int = 0, each: int = EACH) -> None:
    for label in labels:
        files = [("files", character_file(first + label, number)) for number in range(each)]
        answer = service.post(f"/v1/projects/{project}/labels/c{label:02}/support", files=files)
        assert answer.status_code == 201, answer.text


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    """To learn, to choose and to judge with, enough to see that it is done."""
    monkeypatch.setattr("app.jobs.kinds.metatrain.AN_EPOCH", 5)
    monkeypatch.setattr(new_labels, "EPISODES", 8)
    monkeypatch.setattr(metalearning, "VALIDATION_EPISODES", 8)
    monkeypatch.setattr(metalearning, "DEAR_VALIDATION_EPISODES", 2)


@pytest.fixture
def characters(filled):
    """A service whose project `birds` has characters of 12 labels, and the default head."""

    def fill(service):
        service.patch("/v1/projects/birds", json={"head": {"name": "auto"}}).raise_for_status()
        draw(service, "birds", range(LABELS))

    return filled("characters and the default head", fill)


def submit(service, **options):
    return submit_job(service, "metatrain", OPTIONS | {"encoder": TINY} | options)


def refusal(service, **options):
    answer = service.post(JOBS, json={"kind": "metatrain", "options": OPTIONS | options})
    assert answer.status_code == 422, answer.text
    return answer.json()


def test_labels_teach_an_encoder_that_is_judged_on_other_labels(characters, do):
    location = submit(characters, promote="always")

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    verdict, newest = job["result"]["verdict"], versions(characters)[0]
    assert (newest["id"], newest["current"]) == (job["result"]["version"], True)
    assert (newest["name"], newest["embedding_dim"]) == ("conv4", 8)
    parts = verdict["labels"]
    assert [len(parts[part]) for part in ("train", "validation", "test")] == [7, 2, 3]
    everything = parts["train"] + parts["validation"] + parts["test"]
    assert sorted(everything) == [f"c{n:02}" for n in range(LABELS)]
    assert set(verdict["against"]) == {"frozen at 1 shot", "frozen at 2 shots"}
    assert verdict["images"] == 3 * EACH

    # What was learned is reported by what never saw the label.
    with characters.app.state.parts.db.reading() as session:
        rows = list(session.scalars(select(TrainingImage)))
    assert {row.label for row in rows} == {*parts["train"], *parts["validation"]}
    assert len(rows) == newest["images"] == 9 * EACH
    assert all(len(row.predicted) == 1 for row in rows)
    report = characters.get("/v1/projects/birds/report").json()
    assert report["learned_images"] == 9 * EACH
    assert "leave-one-out does not undo that" in report["optimistic"]

    # Every epoch tells how it goes, and a terminal shows it without knowing the kind.
    epochs = [data for data in events(characters, location) if data["stage"] == "meta-training"]
    assert [(data["epoch"], data["epochs"], data["method"]) for data in epochs] == [
        (1, 2, "prototypical"),
        (2, 2, "prototypical"),
    ]
    assert all(0 <= data["accuracy"] <= 1 and data["images_per_s"] > 0 for data in epochs)
    line = terminal_lines(characters, location)[1]
    assert line.title == "prototypical"
    assert "accuracy on labels it did not learn" in line.note


OF_ENCODERS = [name for name, method in learners.items() if hasattr(method, "build")]


@pytest.mark.parametrize("method", sorted({*OF_ENCODERS} - {"prototypical"}))
def test_other_methods_run_as_well(characters, do, method):
    location = submit(characters, method={"name": method}, episodes=2, ways=3, shots=1)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert versions(characters)[0]["id"] == job["result"]["version"]


@pytest.mark.parametrize(
    ("method", "adapts"),
    [
        ({"name": "prototypical", "options": {"warm_up": 1}}, False),
        ({"name": "maml", "options": {"steps": 1}}, True),
        ({"name": "maml", "options": {"steps": 1, "inner": "last_stage"}}, True),
        ({"name": "lstm_learner"}, True),
    ],
    ids=str,
)
def test_a_version_knows_the_steps_that_its_network_has_learned(characters, do, method, adapts):
    location = submit(characters, method=method, episodes=2, ways=3, shots=1, promote="never")

    do(characters)

    newest, oldest = versions(characters)
    version = UUID(characters.get(location).json()["result"]["version"])
    assert (newest["id"], newest["adapts"]) == (str(version), adapts)
    assert not oldest["adapts"]
    parts = characters.app.state.parts
    document = parts.versions.learner(version)
    assert (document is not None) == adapts
    if document is not None:
        assert (document["name"], document["fresh"]) == (method["name"], True)
        learner = restore(document, parts.versions.load(version))
        assert learner.first == (3 if "last_stage" in str(method) else 0)


def test_an_interrupted_job_goes_on_and_ends_as_if_it_had_not_been(characters, do):
    whole = submit(characters, promote="never")
    do(characters)
    location = submit(characters, promote="never")

    interrupt(characters, do, location, Training, "__next__", 1)
    do(characters)

    jobs = [characters.get(where).json() for where in (whole, location)]
    assert [job["state"] for job in jobs] == ["succeeded"] * 2
    assert jobs[1]["attempt"] == 2
    curves = [[data["loss"] for data in events(characters, job)] for job in (whole, location)]
    assert curves[0] == curves[1]
    weights = [
        characters.get(f"/v1/projects/birds/encoders/{job['result']['version']}/weights").content
        for job in jobs
    ]
    assert weights[0] == weights[1]


def test_labels_of_other_projects_teach_and_those_of_the_project_judge(birds, do):
    birds.post("/v1/projects", json={"name": "earlier"})
    draw(birds, "earlier", range(20, 30))
    draw(birds, "birds", range(4))
    shared = [("files", character_file(0, 0))]  # the project has it already
    birds.post("/v1/projects/earlier/labels/c00/support", files=shared)
    location = submit(birds, projects=["earlier"])

    do(birds)

    job = birds.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    labels = job["result"]["verdict"]["labels"]
    assert labels["test"] == ["c00", "c01", "c02", "c03"]
    assert sorted(labels["train"] + labels["validation"]) == [
        f"earlier/c{n}" for n in range(20, 30)
    ]
    assert versions(birds)[0]["images"] == 0  # of its own


def test_labels_that_are_named_judge_and_those_with_few_images_are_left_out(characters, do):
    draw(characters, "birds", range(90, 91), each=2)
    location = submit(characters, test=["c03", "c07", "c11"], validation=["c01", "c02"])
    characters.patch("/v1/projects/birds/labels/c03", json={"name": "three"})

    do(characters)

    labels = characters.get(location).json()["result"]["verdict"]["labels"]
    assert labels["test"] == ["three", "c07", "c11"]
    assert labels["validation"] == ["c01", "c02"]
    (message,) = [data for data in events(characters, location, "message") if "labels" in data]
    assert message["text"].startswith("1 label(s) have fewer than 4 images and are left out: 'c90'")


def test_a_last_layer_of_fixed_rows_wants_as_many_labels(characters, do):
    fixed = {"name": "maml", "options": {"start": "fixed", "ways": 3, "steps": 1}}

    problem = refusal(characters, method=fixed)
    location = submit(characters, method=fixed, ways=3, shots=1, episodes=2, test=["c01", "c02"])

    assert "`ways` must be 3" in str(problem)
    do(characters)
    job = characters.get(location).json()
    assert job["state"] == "succeeded", job["error"]


def test_too_few_labels_are_refused_with_how_many_are_missing(birds):
    draw(birds, "birds", range(4))

    problem = refusal(birds, ways=5)

    assert problem["type"].endswith("labels-do-not-suffice")
    assert (problem["part"], problem["missing_labels"]) == ("learn from", 3)
    assert "5 labels with 4 images each are needed, and there are 2" in problem["detail"]
    assert refusal(birds, ways=2, test=["c00"])["part"] == "judge with"


def test_episodes_that_need_more_memory_than_there_is_are_refused_with_what_fits(
    characters, monkeypatch
):
    monkeypatch.setattr("app.jobs.planning.memory.memory_of", lambda device: 2 * MIB)
    few = {"encoder": TINY, "ways": 3, "shots": 1, "queries": 1}

    problem = refusal(characters, method={"name": "lstm_learner"}, **few)
    location = submit(characters, **few)  # one at a time in its memory

    assert problem["type"] == "/problems/not-enough-memory"
    assert problem["memory_mib"] > problem["available_mib"] == 2
    assert problem["fitting"] == []
    assert re.fullmatch(
        r"'lstm_learner' takes about \d+\.\d MiB of memory for the largest episode with this "
        r"network, and there are 2\.0 MiB; take `lstm_head`, which learns a head alone, a smaller "
        r"network, or fewer ways, shots or queries",
        problem["detail"],
    )
    assert characters.get(location).json()["state"] == "queued"


def test_a_worker_with_less_memory_refuses_as_well(characters, do, monkeypatch):
    monkeypatch.setattr("app.jobs.kinds.metatrain.memory_of", lambda device: 2 * MIB)
    location = submit(characters, method={"name": "lstm_learner"}, ways=3, shots=1, queries=1)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "failed"
    assert "'lstm_learner' takes about" in job["error"]
    assert "there are 2.0 MiB; take `lstm_head`" in job["error"]


SENSELESS: list[tuple[dict[str, object], str]] = [
    ({"ways": 1}, "ways must be at least 2"),
    ({"ways": [6, 5]}, "ways must be from less to more"),
    ({"queries": 0}, "queries must be from 1"),
    ({"shots": [1, 10**9]}, "shots must be at most 1000"),
    ({"episodes": 10**9}, "less than or equal to 1000000"),
    ({"projects": ["birds"]}, "names 'birds' itself"),
    ({"projects": ["a\0b"]}, "/projects/0"),
    ({"test": ["a\0b"]}, "/test/0"),
    ({"test": ["c01"], "validation": ["c01"]}, "named by `validation` as well"),
    ({"test": ["c01", "c01"]}, "named twice"),
    ({"method": {"name": "prototypical", "options": {"centroids": 0}}}, "centroids must be"),
    ({"encoder": {"name": "conv4", "options": {"widht": 3}}}, "widht"),
]


def test_options_that_make_no_sense_are_refused(characters):
    for options, words in SENSELESS:
        assert words in str(refusal(characters, **options))


def test_projects_and_labels_that_are_not_there_are_named(characters):
    for options, words in (({"projects": ["atlantis"]}, "atlantis"), ({"test": ["c99"]}, "c99")):
        answer = characters.post(JOBS, json={"kind": "metatrain", "options": OPTIONS | options})

        assert answer.status_code == 404
        assert words in answer.json()["detail"]


def test_files_that_are_lost_leave_fewer_labels_and_a_clear_error(characters, do):
    location = submit(characters)
    lose_files(characters, LABELS * EACH)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "failed"
    assert "to learn from, 3 labels with 4 images each are needed" in job["error"]


def test_a_loss_that_is_no_number_fails_with_what_would_help(characters, do, monkeypatch):
    def diverge(*_):
        raise Diverged(1, math.nan)

    monkeypatch.setattr(Training, "_train", diverge)
    location = submit(characters)

    do(characters)

    job = characters.get(location).json()
    assert job["state"] == "failed"
    assert job["error"].endswith("try a lower rate")
