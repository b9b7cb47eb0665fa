"""A repeated POST does its work once, and answers as the first time."""

import base64
import hashlib
import http.client
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
import safetensors.torch
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from app.http import idempotency
from app.http.idempotency import CLAIM_S, FirstResponse, KeyClaim, StoredResponses
from app.labeling.projects import Projects
from app.main import create_app
from app.problems import KeyInUse
from app.settings import Settings
from app.sql.columns import Table
from app.sql.database import Database
from app.sql.tables import StoredResponse
from tests.server_process import OPENAPI, ServerProcess, wait_until

KEY = {"Idempotency-Key": "one"}
INTERFACE = """<View><Image name="i" value="$image"/>
<Choices name="c" toName="i"><Choice value="hat"/><Choice value="cap"/></Choices></View>"""
POSTS = [
    operation["post"]["operationId"]
    for operation in json.loads(OPENAPI.read_text())["paths"].values()
    if "post" in operation
]
HOUSEKEEPING = {"chore_runs", "doomed_blobs"}  # tables that it may write at any time
REFUSED = {"label_studio_push", "label_studio_sync"}  # no Label Studio is set


class Site(NamedTuple):
    """A service in a process of its own, and a project in it that has something of everything."""

    client: httpx.Client
    server: ServerProcess
    database: Database
    png: Callable[..., bytes]

    def post(self, path: str, **request: Any) -> Any:
        answer = self.client.post(f"/v1/projects/birds/{path}", **request)
        assert answer.is_success, answer.text
        return answer.json()

    def images(self, label: str | None = None) -> list[str]:
        items = self.client.get("/v1/projects/birds/images").json()["items"]
        return [image["id"] for image in items if image["label"] == label]

    def rows(self) -> dict[str, Any]:
        """All that is kept but answers to keys; of what deliverers write, only how much."""
        with self.database.engine.connect() as connection:
            rows = {
                name: sorted(map(repr, connection.execute(text(f"SELECT * FROM {name}"))))
                for name in Table.metadata.tables.keys() - HOUSEKEEPING - {"answers"}
            }
        return rows | {name: len(rows[name]) for name in ("webhooks", "deliveries")}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def site(request, server_process, png):
    url = request.getfixturevalue("postgresql")() if request.param == "postgresql" else ""
    server = server_process(url, webhooks_to_private_addresses=True)
    database = Database(Settings(data_dir=server.data, database_url=url).database)
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        client.post("/v1/projects", json={"name": "birds"}).raise_for_status()
        site = Site(client, server, database, png)
        for label, colour in (("hat", "red"), ("cap", "blue")):
            files = [("files", png(colour, n)) for n in range(3)]
            site.post(f"labels/{label}/support", files=files)
        site.post("pool", files=[("files", png("green", n)) for n in range(6)])
        yield site
    database.close()


def labeled_twice(site: Site) -> str:
    """An image of which two changes can be taken back."""
    image = site.images()[0]
    for label in ("hat", "cap"):
        path = f"/v1/projects/birds/images/{image}/label"
        site.client.put(path, json={"label": label}).raise_for_status()
    return image


def job(site: Site, *, cancelled: bool = False) -> str:
    """A job that has not ended, or that was cancelled."""
    jobs = site.client.get("/v1/projects/birds/jobs").json()["items"]
    waiting = [job["id"] for job in jobs if job["state"] == "queued"]
    key = waiting[0] if waiting else site.post("jobs", json={"kind": "finetune"})["id"]
    if cancelled:
        site.post(f"jobs/{key}/cancel")
    return str(key)


def webhook(site: Site) -> str:
    return str(site.post("webhooks", json={"url": "http://127.0.0.1:9/"})["id"])


def changed_weights(site: Site) -> bytes:
    """Those of the project, a bit different each time."""
    encoders = "/v1/projects/birds/encoders"
    versions = site.client.get(encoders).json()["items"]
    weights = site.client.get(f"{encoders}/{versions[-1]['id']}/weights").content
    changed = {k: v + len(versions) for k, v in safetensors.torch.load(weights).items()}
    return safetensors.torch.save(changed)


def upload(site: Site, path: str, seed: int) -> Any:
    return path, {"files": {"files": site.png("white", seed)}}


def binary(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": "application/octet-stream"}}


def request(site: Site, operation: str) -> tuple[str, dict[str, Any]]:
    """The path below the project, or a whole one, and the request of an operation."""
    studio = "/label-studio/birds"
    picture = f"data:image/png;base64,{base64.b64encode(site.png('white', 1)).decode()}"
    task = {"id": 1, "data": {"image": picture}}
    setup = {"project": "1.1", "schema": INTERFACE}
    new = {"image": site.images()[0], "label": "hat"}

    def retry() -> Any:
        hook = webhook(site)
        return f"webhooks/{hook}/deliveries/{site.post(f'webhooks/{hook}/test')['id']}/retry", {}

    def promote() -> Any:
        version = site.post("encoders", **binary(changed_weights(site)))["id"]
        return f"encoders/{version}/promote", {}

    predict = {"project": "1.1", "label_config": INTERFACE, "tasks": [task]}
    makers: dict[str, Callable[[], Any]] = {
        "label_studio_predict": lambda: (f"{studio}/predict", {"json": predict}),
        "label_studio_push": lambda: (f"{studio}/push", {"json": {"project": 1}}),
        "label_studio_set_up": lambda: (f"{studio}/setup", {"json": setup}),
        "label_studio_sync": lambda: (f"{studio}/sync", {"json": {"project": 1}}),
        "label_studio_receive_event": lambda: (
            f"{studio}/webhook",
            {"json": {"action": "PROJECT_UPDATED", "project": {"id": 1}}},
        ),
        "projects_create": lambda: ("/v1/projects", {"json": {"name": "fish"}}),
        "images_annotate": lambda: ("annotations", {"json": {"annotations": [new]}}),
        "augmentations_preview": lambda: (
            "augmentations/preview",
            {"json": {"image": site.images()[0], "count": 1}},
        ),
        "classify_queries": lambda: upload(site, "classify", 2),
        "encoders_upload_version": lambda: ("encoders", binary(changed_weights(site))),
        "encoders_promote_version": promote,
        "evaluate_heads": lambda: (
            "evaluate",
            {"json": {"ways": 2, "shots": [1], "queries": 1, "episodes": 5, "seconds": 60}},
        ),
        "exchange_export_project": lambda: ("export", {"json": {"format": {"name": "jsonl"}}}),
        "images_set_many_metadata": lambda: (
            "images/metadata",
            {"json": {"images": [{"image": new["image"], "metadata": {"a": "b"}}]}},
        ),
        "images_undo_label": lambda: (f"images/{labeled_twice(site)}/label/undo", {}),
        "exchange_import_file": lambda: (
            "import",
            binary(f"id,label\n{new['image']},cap\n".encode()),
        ),
        "jobs_start": lambda: ("jobs", {"json": {"kind": "transduce"}}),
        "jobs_cancel": lambda: (f"jobs/{job(site)}/cancel", {}),
        "jobs_retry": lambda: (f"jobs/{job(site, cancelled=True)}/retry", {}),
        "labels_create": lambda: ("labels", {"json": {"name": "beret"}}),
        "labels_add_support": lambda: upload(site, "labels/hat/support", 3),
        "pool_add_images": lambda: upload(site, "pool", 4),
        "pool_hand_out": lambda: ("pool/next", {"json": {"annotator": "ada"}}),
        "pool_rank": lambda: ("pool/rank", {"json": {"strategy": {"name": "random"}}}),
        "pool_skip": lambda: (
            "pool/skip",
            {"json": {"annotator": "ada", "images": site.images()[:1]}},
        ),
        "pretraining_preview": lambda: (
            "pretraining/preview",
            {"json": {"image": site.images()[0], "method": {"name": "rotation"}}},
        ),
        "webhooks_create": lambda: ("webhooks", {"json": {"url": "http://127.0.0.1:9/"}}),
        "webhooks_retry_delivery": retry,
        "webhooks_test": lambda: (f"webhooks/{webhook(site)}/test", {}),
        "session_open": lambda: ("/v1/session", {"json": {"api_key": "x"}}),
    }
    return makers[operation]()


@pytest.mark.parametrize("operation", POSTS)
def test_each_post_is_carried_out_once_whatever_its_body(site, operation):
    path, options = request(site, operation)
    url = path if path.startswith("/") else f"/v1/projects/birds/{path}"
    headers = options.pop("headers", {}) | {"Idempotency-Key": str(uuid4())}

    first = site.client.post(url, headers=headers, **options)
    rows = site.rows()
    second = site.client.post(url, headers=headers, **options)

    assert first.status_code == 422 if operation in REFUSED else first.is_success, first.text
    assert (second.status_code, second.content) == (first.status_code, first.content)
    replayed = operation != "session_open"  # of which nothing is kept, as nothing is done
    assert (second.headers.get("Idempotent-Replayed") == "true") == replayed
    assert site.rows() == rows


def test_who_hung_up_before_the_answer_gets_it_later(site):
    path = f"/v1/projects/birds/images/{labeled_twice(site)}/label/undo"
    headers = {"Idempotency-Key": str(uuid4())}
    before = len(site.rows()["annotations"])
    connection = http.client.HTTPConnection("127.0.0.1", site.server.port)
    connection.putrequest("POST", path)
    for name, value in (headers | {"Content-Length": "2"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    wait_until(lambda: len(site.rows()["annotations"]) > before)

    connection.close()  # it has sent no body, of which the route reads nothing
    answers = iter(lambda: site.client.post(path, headers=headers, content="{}"), None)
    answer = next(answer for answer in answers if answer.status_code != 409)

    assert answer.headers["Idempotent-Replayed"] == "true"
    assert len(site.rows()["annotations"]) == before + 1


def test_when_the_last_byte_is_there_the_answer_is_remembered(birds, monkeypatch):
    """Whoever has the answer may repeat the request at once."""
    remembered = []
    remember = StoredResponses.remember

    def note(*arguments, **options):
        remember(*arguments, **options)
        remembered.append(True)

    monkeypatch.setattr(StoredResponses, "remember", note)
    sent = []

    class Watched:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            async def watched(message):
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    sent.append(bool(remembered))
                await send(message)

            await self.app(scope, receive, watched)

    client = TestClient(Watched(birds.app), base_url="http://localhost")
    client.post("/v1/projects", json={"name": "p"}, headers=KEY)

    assert sent == [True]


def test_a_repeated_post_answers_as_the_first_did(service):
    first = service.post("/v1/projects", json={"name": "p"}, headers=KEY)
    second = service.post("/v1/projects", json={"name": "p"}, headers=KEY)

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(service.get("/v1/projects").json()["items"]) == 1


def test_a_repeated_upload_is_recognised_whatever_its_boundary(birds, png):
    answers = [
        birds.post(
            "/v1/projects/birds/pool",
            files=[("files", ("a.png", png("red"))), ("files", ("b.png", png("blue")))],
            headers=KEY,
        )
        for _ in range(2)
    ]

    assert answers[0].json() == answers[1].json()
    assert all(image["created"] for image in answers[1].json()["images"])


def test_a_key_with_another_body_is_refused(service):
    service.post("/v1/projects", json={"name": "p"}, headers=KEY)

    answer = service.post("/v1/projects", json={"name": "q"}, headers=KEY)

    assert answer.status_code == 422
    assert "another body" in answer.json()["detail"]


def test_a_key_belongs_to_one_address(birds):
    for label in ("a", "b"):
        birds.post("/v1/projects", json={"name": label}, headers=KEY)
    answer = birds.post("/v1/projects/birds/labels", json={"name": "a"}, headers=KEY)

    assert answer.status_code == 201


def test_refusals_are_repeated_too(birds):
    answers = [birds.post("/v1/projects", json={"name": "birds"}, headers=KEY) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert answers[1].headers["Idempotent-Replayed"] == "true"


def test_while_the_first_runs_a_second_is_told_to_wait(birds, png, monkeypatch):
    entered, gate = threading.Event(), threading.Event()
    labeling = birds.app.state.parts.uploads
    add = type(labeling).add

    def slow(*arguments, **options):
        entered.set()
        assert gate.wait(20)
        return add(*arguments, **options)

    monkeypatch.setattr(type(labeling), "add", slow)

    def send():
        files = {"files": ("a.png", png("red"))}
        return birds.post("/v1/projects/birds/pool", files=files, headers=KEY)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(send)
        assert entered.wait(10)
        second = send()
        gate.set()

        assert first.result().status_code == 201
    assert second.status_code == 409
    assert second.headers["Retry-After"] == "1"
    assert send().json() == first.result().json()


def test_what_failed_on_our_side_may_come_again(birds, png, monkeypatch):
    labeling = type(birds.app.state.parts.uploads)
    files = {"files": ("a.png", png("red"))}

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(labeling, "add", fail)
        assert birds.post("/v1/projects/birds/pool", files=files, headers=KEY).status_code == 500

    assert birds.post("/v1/projects/birds/pool", files=files, headers=KEY).status_code == 201


@pytest.mark.parametrize("write", ["remember", "release"])
def test_a_claim_is_settled_when_the_database_is_back(birds, png, monkeypatch, write):
    # It would else hold its key for minutes, and who comes again is told to wait.
    monkeypatch.setattr(idempotency, "RETRY_S", 0.01)
    settle, outages = getattr(StoredResponses, write), iter(range(3))

    def settle_later(*arguments):
        if next(outages, None) is not None:
            raise OperationalError("", None, Exception("gone"), connection_invalidated=True)
        return settle(*arguments)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    def send():
        files = {"files": ("a.png", png("red"))}
        return birds.post("/v1/projects/birds/pool", files=files, headers=KEY)

    monkeypatch.setattr(StoredResponses, write, settle_later)
    with monkeypatch.context() as patch:
        if write == "release":
            patch.setattr(type(birds.app.state.parts.uploads), "add", fail)
        first = send()
    assert first.status_code == (500 if write == "release" else 201)

    wait_until(lambda: send().status_code == 201)

    assert send().headers["Idempotent-Replayed"] == "true"
    assert next(outages, None) is None


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_too_short_or_long(service, key):
    answer = service.post("/v1/projects", json={"name": "p"}, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert "1 to 255 characters" in answer.json()["detail"]


def test_a_server_that_died_leaves_no_key_in_use(settings):
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost"):
        pass
    db = Database(settings.database)
    StoredResponses(db, 24).claim("one", "/v1/projects?")
    db.close()

    with TestClient(create_app(settings), base_url="http://localhost") as client:
        assert client.post("/v1/projects", json={"name": "p"}, headers=KEY).status_code == 201


@pytest.fixture(params=["sqlite", "postgresql"])
def responses(request, migrated, tmp_path):
    """The table of answers, on each database."""
    make = request.param == "postgresql" and request.getfixturevalue("postgresql")
    db = Database(make() if make else f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield StoredResponses(db, 24)
    db.close()


def silent_for(responses: StoredResponses, claim: KeyClaim, seconds: float) -> None:
    """Have a claim be as old as if its request had given no sign of life since."""
    with responses.db.writing() as session:
        moment = responses.db.clock(session) - timedelta(seconds=seconds)
        row = update(StoredResponse).where(StoredResponse.key == claim.key)
        session.execute(row.values(created_at=moment))


def claimed(responses: StoredResponses) -> KeyClaim:
    claim = responses.claim("one", "/v1/projects?")
    assert isinstance(claim, KeyClaim)
    return claim


def test_who_took_a_claim_over_is_not_disturbed_by_who_had_it(responses):
    first = claimed(responses)
    silent_for(responses, first, CLAIM_S + 10)
    second = claimed(responses)

    responses.renew(first)
    responses.release(first)
    responses.remember(first, "", 201, {}, b"first")

    with pytest.raises(KeyInUse):
        responses.claim("one", "/v1/projects?")
    responses.remember(second, "", 201, {}, b"second")
    responses.release(second)  # too late: it was answered
    assert responses.claim("one", "/v1/projects?") == FirstResponse(201, {}, b"second", "")


def test_who_lost_a_claim_does_none_of_its_work(responses):
    first = claimed(responses)
    silent_for(responses, first, CLAIM_S + 10)
    claimed(responses)

    def work():
        with responses.db.writing() as session:
            session.add(StoredResponse(key="work"))
            responses.seal(first, session)

    with pytest.raises(KeyInUse):
        work()

    with responses.db.reading() as session:
        assert session.get(StoredResponse, "work") is None


def test_what_is_done_stays_so_when_its_request_fails(responses):
    claim = claimed(responses)
    with responses.db.writing() as session:
        responses.seal(claim, session)

    responses.release(claim)

    answer = responses.claim("one", "/v1/projects?")
    assert isinstance(answer, FirstResponse)
    assert json.loads(answer.body)["type"] == "/problems/answer-lost"


def test_a_claim_that_is_renewed_is_not_taken_over(responses):
    claim = claimed(responses)
    silent_for(responses, claim, CLAIM_S + 10)

    responses.renew(claim)

    with pytest.raises(KeyInUse):
        responses.claim("one", "/v1/projects?")


def test_a_request_that_takes_long_gives_signs_of_life(birds, monkeypatch):
    monkeypatch.setattr(idempotency, "BEAT_S", 0.01)
    responses = StoredResponses(birds.app.state.parts.db, 24)
    entered, gate, runs = threading.Event(), threading.Event(), []
    create = Projects.create

    def slow(*arguments, **options):
        runs.append(True)
        entered.set()
        assert gate.wait(60)
        return create(*arguments, **options)

    monkeypatch.setattr(Projects, "create", slow)

    def send():
        return birds.post("/v1/projects", json={"name": "fish"}, headers=KEY)

    def age() -> float:
        with responses.db.reading() as session:
            row = session.scalars(select(StoredResponse)).one()
            return (responses.db.clock(session) - row.created_at).total_seconds()

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(send)
        assert entered.wait(60)
        claim = KeyClaim(hashlib.sha256(b"/v1/projects?\none").hexdigest(), uuid4())
        silent_for(responses, claim, CLAIM_S + 1000)
        wait_until(lambda: age() < CLAIM_S)
        second = send()
        gate.set()
        assert first.result().status_code == 201

    assert second.status_code == 409
    assert runs == [True]


def test_who_has_no_key_has_nothing_kept(settings):
    locked = settings.model_copy(update={"api_key": SecretStr("k" * 20)})
    app = create_app(locked)
    with TestClient(app, base_url="http://localhost") as client:
        client.post("/v1/session", json={"api_key": "guess"}, headers=KEY)

        with app.state.parts.db.reading() as session:
            assert session.scalars(select(StoredResponse)).all() == []
