"""The job that labels the whole pool at once, done in this process."""

import json
from uuid import UUID

import pytest
from sqlalchemy import delete, select

from app.cli import terminal
from app.housekeeping.blob_sweep import sweep
from app.sql.tables import Embedding, Image, Job
from handful.contract.jobs import JobRead
from models.transduction.alpha_tim import Transduction
from tests.app.jobs.conftest import JOBS, submit_job
from tests.app.jobs.kinds.conftest import events, interrupt, terminal_lines

QUICK = {"epochs": 2, "rate": 0.01}
RUNS = 16  # five folds, three times, and all labels


def submit(service, **options):
    return submit_job(service, "transduce", {"alpha_tim": QUICK | options})


def lines(service, location):
    answer = service.get(f"{location}/predictions")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def pool(service):
    items = service.get("/v1/projects/birds/images", params={"state": "pool"}).json()["items"]
    return [image["id"] for image in items]


def digest(service, location):
    with service.app.state.parts.queue.db.reading() as session:
        job = UUID(location.rpartition("/")[2])
        return session.scalars(select(Job.predictions).where(Job.id == job)).one()


def test_every_image_of_the_pool_is_predicted_beside_what_the_head_says(striped, do):
    waiting = pool(striped)
    location = submit(striped)

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    result, predicted = job["result"], lines(striped, location)
    assert [line["image"] for line in predicted] == waiting
    assert result["images"] == len(predicted) == 4
    assert result["changed"] == sum(line["label"] != line["head_label"] for line in predicted)
    assert [share["label"] for share in result["labels"]] == ["level", "upright"]
    for share in result["labels"]:
        assert share["images"] == sum(line["label"] == share["label"] for line in predicted)
    assert sum(share["share"] for share in result["labels"]) == pytest.approx(1, abs=1e-3)
    assert all(0.5 <= line["probability"] <= 1 for line in predicted)
    verdict = result["verdict"]
    assert verdict["images"] == 32
    assert verdict["better"] == verdict["against"]["head"]["better"]
    assert {"accuracy", "before"} <= set(verdict["against"]["head"])
    assert pool(striped) == waiting  # no label was set


def test_the_label_of_the_head_is_that_of_classify(striped, do):
    location = submit(striped)
    do(striped)

    for line in lines(striped, location):
        content = striped.get(f"/v1/projects/birds/images/{line['image']}/content").content
        answer = striped.post(
            "/v1/projects/birds/classify", content=content, headers={"content-type": "image/png"}
        )
        assert answer.json()["predictions"][0]["label"] == line["head_label"]


def test_each_fold_and_each_epoch_with_all_labels_tells_its_loss(striped, do):
    location = submit(striped, epochs=3)

    do(striped)

    epochs = events(striped, location)
    folds = [n % 5 + 1 for n in range(RUNS - 1)]
    assert [(data["run"], data["fold"], data["epoch"]) for data in epochs] == [
        *((n + 1, fold, 3) for n, fold in enumerate(folds)),
        *((RUNS, None, epoch) for epoch in (1, 2, 3)),
    ]
    for data in epochs:
        information = data["marginal_entropy"] - data["conditional_entropy"]
        assert data["loss"] == pytest.approx(data["cross_entropy"] - information, abs=1e-4)
    assert epochs[-1]["seconds_left"] == 0


def test_an_interrupted_job_ends_bit_for_bit_as_if_it_had_not_been(striped, do, monkeypatch):
    calls = 0
    epoch = Transduction.__next__

    def count(self):
        nonlocal calls
        calls += 1
        return epoch(self)

    whole = submit(striped)
    do(striped)
    for after in (0, 10, 46):
        location = submit(striped)
        interrupt(striped, do, location, Transduction, "__next__", after)
        calls = 0

        with monkeypatch.context() as patch:
            patch.setattr(Transduction, "__next__", count)
            do(striped)

        job, expected = striped.get(location).json(), striped.get(whole).json()
        assert job["state"] == "succeeded", job["error"]
        assert job["result"] == expected["result"]
        assert digest(striped, location) == digest(striped, whole)
        assert calls == 3 * RUNS - after  # each run of two epochs ends by one look more
        curves = [[(e["run"], e["epoch"], e["loss"]) for e in events(striped, at)] for at in
                (location, whole)]  # fmt: skip
        assert curves[0] == curves[1]


def test_labels_that_changed_since_the_checkpoint_start_it_over(striped, do, stripes):
    location = submit(striped)
    interrupt(striped, do, location, Transduction, "__next__", after=7)
    striped.post("/v1/projects/birds/pool", files=[("files", stripes("level", 90))])

    do(striped)

    assert striped.get(location).json()["result"]["images"] == 5
    (message,) = events(striped, location, "message")
    assert "starting over" in message["text"]


def test_predictions_are_kept_while_their_project_is_there(striped, do):
    location = submit(striped)
    do(striped)
    parts, stored = striped.app.state.parts, digest(striped, location)
    blobs = parts.blobs

    sweep(parts.db, blobs, grace_s=0)
    assert lines(striped, location)

    striped.delete("/v1/projects/birds")
    sweep(parts.db, blobs, grace_s=0)
    with pytest.raises(FileNotFoundError):
        blobs.get(stored)


def test_predictions_that_are_known_are_not_sent_again(striped, do):
    location = submit(striped)
    do(striped)
    tag = striped.get(f"{location}/predictions").headers["etag"]

    answer = striped.get(f"{location}/predictions", headers={"If-None-Match": tag})

    assert answer.status_code == 304
    assert not answer.content


def test_without_predictions_the_answer_says_why(striped, do):
    location = submit(striped)
    waiting = striped.get(f"{location}/predictions")
    do(striped)
    striped.app.state.parts.promotions.blobs.remove(digest(striped, location))
    lost = striped.get(f"{location}/predictions")
    current = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    promotion = submit_job(striped, "promote", {"version": current})
    do(striped)
    none = striped.get(f"{promotion}/predictions")
    unknown = striped.get(f"{JOBS}/{current}/predictions")

    assert (waiting.status_code, waiting.json()["type"]) == (409, "/problems/job-ended")
    assert "queued and has no predictions yet" in waiting.json()["detail"]
    assert (lost.status_code, none.status_code, unknown.status_code) == (404, 404, 404)
    assert "start another one" in lost.json()["detail"]
    assert "is a promote" in none.json()["detail"]


def test_one_image_of_each_label_is_enough_but_for_a_verdict(birds, do, stripes):
    for way in ("level", "upright"):
        birds.post(f"/v1/projects/birds/labels/{way}/support", files={"files": stripes(way, 1)})
    birds.post("/v1/projects/birds/pool", files={"files": stripes("level", 2)})
    location = submit(birds)

    do(birds)

    job = birds.get(location).json()
    assert job["state"] == "succeeded", job["error"]
    assert not job["result"]["verdict"]["better"]
    assert "too few labels to judge it" in job["result"]["verdict"]["reason"]
    assert len(lines(birds, location)) == 1


def test_a_project_that_is_not_ready_is_refused_with_what_is_missing(birds, stripes):
    def refusal():
        answer = birds.post(JOBS, json={"kind": "transduce"})
        assert answer.status_code == 409, answer.text
        return answer.json()

    birds.post("/v1/projects/birds/labels/level/support", files={"files": stripes("level", 1)})
    one_label = refusal()
    birds.post("/v1/projects/birds/labels/upright/support", files={"files": stripes("upright", 1)})
    no_pool = refusal()
    birds.post("/v1/projects/birds/pool", files={"files": stripes("level", 2)})
    with birds.app.state.parts.queue.db.writing() as session:
        of_pool = select(Image.id).where(Image.label_id.is_(None))
        session.execute(delete(Embedding).where(Embedding.image_id.in_(of_pool)))
    not_embedded = refusal()

    assert one_label["type"] == "/problems/too-few-labels"
    assert "1 label(s)" in one_label["detail"]
    assert no_pool["type"] == not_embedded["type"] == "/problems/empty-pool"
    assert "upload images without a label" in no_pool["detail"]
    assert "none of the 1 images in the pool has an embedding" in not_embedded["detail"]


def test_images_without_embedding_are_left_out_and_counted(striped, do):
    lost, *embedded = pool(striped)
    with striped.app.state.parts.queue.db.writing() as session:
        session.execute(delete(Embedding).where(Embedding.image_id == UUID(lost)))
    location = submit(striped)

    do(striped)

    assert striped.get(location).json()["result"]["skipped"] == 1
    assert [line["image"] for line in lines(striped, location)] == embedded


def test_a_pool_that_was_emptied_meanwhile_fails_the_job_with_advice(striped, do):
    location = submit(striped)
    for image in pool(striped):
        striped.delete(f"/v1/projects/birds/images/{image}")

    do(striped)

    job = striped.get(location).json()
    assert job["state"] == "failed"
    assert "upload images without a label" in job["error"]


def test_a_rate_that_is_too_high_fails_the_job_with_advice(striped, do, monkeypatch):
    location = submit(striped)
    monkeypatch.setattr("models.transduction.alpha_tim.math.isfinite", lambda _: False)

    do(striped)

    assert "try a lower rate than 0.01" in striped.get(location).json()["error"]


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 3},
        {"alpha_tim": {"alpha": 0.5}},
        {"alpha_tim": {"temperature": 0}},
        {"alpha_tim": {"rate": "fast"}},
        {"alpha_tim": {"entropy": "shannon"}},
    ],
)
def test_options_that_do_not_exist_or_fit_are_refused(birds, options):
    answer = birds.post(JOBS, json={"kind": "transduce", "options": options})

    assert answer.status_code == 422, answer.text
    assert "/body" in answer.json()["detail"]


def test_the_same_job_is_refused_until_something_changes(striped, stripes):
    submit(striped)
    body = {"kind": "transduce", "options": {"alpha_tim": QUICK}}

    refused = striped.post(JOBS, json=body)
    striped.post("/v1/projects/birds/pool", files=[("files", stripes("level", 70))])

    assert refused.status_code == 409
    submit(striped)


def test_a_terminal_shows_the_runs_and_what_came_out(striped, do):
    location = submit(striped)
    do(striped)
    job = JobRead.model_validate(striped.get(location).json())

    first, *_, last = terminal_lines(striped, location)

    assert (first.title, last.title) == ("fold 1", "the whole pool")
    assert last.share == 1
    assert terminal._short(job).startswith(f"{job.result.changed} of 4 images get another")
