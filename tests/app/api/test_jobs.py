"""Jobs over HTTP: what a client sees of them while they wait, run and end."""

import itertools
import json
import threading
from uuid import UUID

import httpx
import pytest

from app.jobs.job_queue import JobQueue
from app.sql.tables import ProjectVersion
from handful.contract.jobs import JobState

JOBS = "/v1/projects/birds/jobs"


@pytest.fixture
def job(striped):
    """Where to look after a job that waits."""
    answer = striped.post(JOBS, json={"kind": "finetune"})
    assert answer.status_code == 202
    return answer.headers["Location"]


def test_a_job_that_waits_can_be_read_listed_and_cancelled(striped, job):
    read = striped.get(job).json()
    listed = striped.get(JOBS).json()["items"]

    cancelled = striped.post(f"{job}/cancel")

    assert read["state"] == "queued"
    assert read["options"]["promote"] == "auto"
    assert [one["id"] for one in listed] == [read["id"]]
    assert cancelled.json()["state"] == "cancelled"
    assert striped.post(f"{job}/cancel").status_code == 409


def test_a_cancelled_job_can_be_tried_again_and_one_that_waits_cannot(striped, job):
    striped.post(f"{job}/cancel")

    again = striped.post(f"{job}/retry")

    assert again.json()["state"] == "queued"
    assert striped.post(f"{job}/retry").status_code == 409


def test_a_job_of_another_project_is_not_found(striped, job):
    striped.post("/v1/projects", json={"name": "fish"})

    answer = striped.get(f"/v1/projects/fish/jobs/{job.rpartition('/')[2]}")

    assert answer.status_code == 404


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(striped):
    answer = striped.post(JOBS, json={"kind": "finetoon"})

    assert answer.status_code == 422
    assert "'finetune'" in answer.json()["detail"]


def test_events_are_asked_for_after_a_number(striped, job):
    striped.post(f"{job}/cancel")

    everything = striped.get(f"{job}/events").json()
    rest = striped.get(f"{job}/events", params={"after": 1}).json()

    assert everything["state"] == "cancelled"
    assert [event["number"] for event in everything["items"]] == [1, 2]
    assert rest["items"] == everything["items"][1:]


OLD_VERDICT = {
    "better": False,
    "reason": "the candidate is better with a probability of 0.50, not 0.9",
    "images": 4,
    "against": {
        "prototypes": {
            "better": False,
            "probability": 0.5,
            "accuracy": 0.75,
            "before": 0.75,
            "worst_recall_loss": 0.0,
            "reason": "the candidate is better with a probability of 0.50, not 0.9",
        }
    },
    "method": {"name": "full", "options": {}},
    "share": 0.5,
}
OLD_METRICS = {
    "stage": "training",
    "method": "full",
    "run": 1,
    "runs": 3,
    "fold": 1,
    "epoch": 1,
    "epochs": 8,
    "loss": 0.7,
    "accuracy": None,
    "rates": {"head": 0.01},
    "images_per_s": 12.5,
    "seconds_left": 3.2,
}


def test_what_an_older_service_wrote_can_still_be_read(striped, job):
    parts = striped.app.state.parts
    claim = parts.queue.claim()
    version = striped.get("/v1/projects/birds").json()["encoder"]["id"]
    result = {"version": version, "promoted": False, "verdict": OLD_VERDICT}
    parts.queue.record(claim, "metrics", OLD_METRICS)
    parts.queue.record(claim, "message", {"text": "2 images are left out", "skipped": 2})
    parts.queue.record(claim, "picture", {"text": "a sheet", "url": "data:", "epoch": 1})
    parts.queue.finish(claim, JobState.SUCCEEDED, result=result)
    metrics = {"champion": version, **OLD_VERDICT}
    with parts.queue.db.writing() as session:
        session.add(
            ProjectVersion(
                encoder_id=UUID(version),
                project_id=claim.project_id,
                job_id=claim.job_id,
                metrics=metrics,
            )
        )

    read = striped.get(job).json()
    events = striped.get(f"{job}/events").json()["items"]
    (of_version,) = striped.get("/v1/projects/birds/encoders").json()["items"]

    (progress,) = [event["data"] for event in events if event["kind"] == "metrics"]
    assert OLD_METRICS.items() <= progress.items()
    assert (progress["share"], progress["title"], progress["figures"]) == (0, "", [])
    assert {"text": "2 images are left out", "skipped": 2} in [e["data"] for e in events]
    assert {"text": "a sheet", "url": "data:", "epoch": 1} in [e["data"] for e in events]
    assert read["result"]["summary"] == OLD_VERDICT["reason"]
    assert result.keys() <= read["result"].keys()
    for verdict in (read["result"]["verdict"], of_version["metrics"]):
        assert OLD_VERDICT.items() <= verdict.items()
        assert verdict["accuracy"] == 0.75
    assert of_version["metrics"]["champion"] == version


def test_a_version_that_was_never_judged_has_no_accuracy(striped):
    (version,) = striped.get("/v1/projects/birds/encoders").json()["items"]

    assert version["metrics"]["accuracy"] is None
    assert not version["metrics"]["against"]


def read_stream(url: str, last: int, most: int) -> list[dict]:
    """Events of a stream after the last one, until it ends or we hang up."""
    found = []
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
    with httpx.stream("GET", url, headers=headers, timeout=20) as answer:
        if answer.status_code == 204:
            return found
        assert answer.headers["content-type"].startswith("text/event-stream")
        event = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "data":
                event = json.loads(value)
            if not line and event:
                found.append(event)
                event = {}
                if len(found) == most:
                    break
    return found


@pytest.mark.slow
def test_a_stream_tells_each_event_once_across_reconnects(live_service, stripes):
    url, app = live_service
    httpx.post(f"{url}/v1/projects", json={"name": "birds"})
    for way in ("level", "upright"):
        files = [("files", stripes(way, seed)) for seed in range(2)]
        httpx.post(f"{url}/v1/projects/birds/labels/{way}/support", files=files)
    location = httpx.post(f"{url}{JOBS}", json={"kind": "finetune"}).headers["Location"]
    queue: JobQueue = app.state.parts.queue

    def tell():
        claim = queue.claim()
        for n in range(300):
            queue.record(claim, "metrics", {"n": n})
        queue.finish(claim, JobState.SUCCEEDED)

    teller = threading.Thread(target=tell)
    teller.start()
    seen: list[dict] = []
    for most in itertools.cycle((1, 7, 40)):  # hang up after so many, and connect again
        last = seen[-1]["number"] if seen else 0
        events = read_stream(f"{url}{location}/events", last, most)
        seen += events
        if not events:
            break
    teller.join()

    assert [event["number"] for event in seen] == list(range(1, 304))
    assert [e["data"]["n"] for e in seen if e["kind"] == "metrics"] == list(range(300))
    assert seen[-1]["data"]["state"] == "succeeded"
