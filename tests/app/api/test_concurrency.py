"""Many clients at once, and clients that leave, behind a real socket."""

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from app.ranking import ranking
from models.acquisition.batch import choose

PATIENCE_S = 120.0  # with a machine that has much else to do; nothing takes that long


@pytest.fixture
def client(live_url):
    with httpx.Client(base_url=live_url, timeout=PATIENCE_S) as client:
        client.post("/v1/projects", json={"name": "birds"})
        yield client


def test_the_same_image_from_many_clients_is_one_image(client, png):
    def send(_: int) -> dict:
        answer = client.post(
            "/v1/projects/birds/labels/red/support", files={"files": ("a.png", png("red"))}
        )
        return answer.raise_for_status().json()["images"][0]

    with ThreadPoolExecutor(8) as threads:
        images = list(threads.map(send, range(24)))

    assert len({image["id"] for image in images}) == 1
    assert sum(image["created"] for image in images) == 1
    assert client.get("/v1/projects/birds").json()["support"] == 1


def test_uploads_labels_and_questions_at_once_lose_nothing(client, png):
    for colour in ("red", "blue"):
        client.post(
            f"/v1/projects/birds/labels/{colour}/support", files={"files": png(colour, 399)}
        )

    def add(n: int) -> str:
        answer = client.post("/v1/projects/birds/pool", files={"files": png("green", n)})
        image = answer.raise_for_status().json()["images"][0]["id"]
        client.put(
            f"/v1/projects/birds/images/{image}/label", json={"label": "red"}
        ).raise_for_status()
        return image

    def ask(n: int) -> int:
        files = {"files": png("red", n)}
        classified = client.post("/v1/projects/birds/classify", files=files)
        ranked = client.post("/v1/projects/birds/pool/rank", json={"budget": 100})
        return max(classified.status_code, ranked.status_code)

    with ThreadPoolExecutor(12) as threads:
        additions = [threads.submit(add, n) for n in range(40)]
        questions = [threads.submit(ask, n) for n in range(20)]
        images = {future.result() for future in additions}
        assert {future.result() for future in questions} == {200}

    assert len(images) == 40
    project = client.get("/v1/projects/birds").json()
    assert (project["support"], project["pool"]) == (42, 0)
    assert client.post("/v1/projects/birds/pool/rank", json={}).json()["images"] == []


def test_a_few_rankings_are_made_at_once_and_the_others_wait(client, png, monkeypatch):
    files = [("files", (f"{n}.png", png("red", n))) for n in range(3)]
    client.post("/v1/projects/birds/pool", files=files).raise_for_status()
    limit = ranking.RANKINGS_AT_ONCE
    all_inside = threading.Barrier(limit, timeout=PATIENCE_S)
    lock, inside, most = threading.Lock(), 0, 0

    def choose_together(*arguments, **options):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        all_inside.wait()  # none goes on before as many are here as may be
        with lock:
            inside -= 1
        return choose(*arguments, **options)

    monkeypatch.setattr(ranking, "choose", choose_together)
    body = {"budget": 2, "strategy": {"name": "random"}}

    def rank(_: int) -> httpx.Response:
        return client.post("/v1/projects/birds/pool/rank", json=body)

    with ThreadPoolExecutor(3 * limit) as threads:
        answers = list(threads.map(rank, range(3 * limit)))

    assert {answer.status_code for answer in answers} == {200}
    assert most == limit


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(client, live_url, png):
    address = urlsplit(live_url)
    for _ in range(5):
        connection = http.client.HTTPConnection(address.hostname, address.port)
        connection.putrequest("POST", "/v1/projects/birds/pool")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", "100000")
        connection.endheaders()
        connection.send(png("red")[:50])
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    disconnected = 'route="/v1/projects/{project}/pool",status="499"} 5.0'
    wait_until(lambda: disconnected in client.get("/metrics").text)

    assert client.get("/v1/projects/birds").json()["pool"] == 0
    assert client.get("/livez").is_success
    metrics = client.get("/metrics").text
    assert "handful_queue_images 0.0" in metrics
    assert 'status="500"' not in metrics
    answer = client.post("/v1/projects/birds/pool", files={"files": png("red")})
    assert answer.status_code == 201


def register_birds(client, png):
    client.post("/v1/projects", json={"name": "birds"})
    for colour in ("red", "blue"):
        path = f"/v1/projects/birds/labels/{colour}/support"
        client.post(path, files={"files": png(colour)}).raise_for_status()


def test_what_a_client_no_longer_waits_for_is_not_computed(live_service, png):
    url, app = live_service
    embedder, version = app.state.parts.embedder, app.state.parts.projects.default_encoder
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        register_birds(client, png)
        network = hold_network(embedder, version)
        with ThreadPoolExecutor(1) as threads:
            files = {"files": png("red", 1)}
            waits = threads.submit(client.post, "/v1/projects/birds/classify", files=files)
            assert network.entered.wait(PATIENCE_S)
            address = urlsplit(url)
            leaves = http.client.HTTPConnection(address.hostname, address.port)
            headers = {"Content-Type": "image/png"}
            leaves.request("POST", "/v1/projects/birds/classify", png("red", 2), headers)
            wait_until(lambda: len(embedder._batches) == 1)
            leaves.sock.shutdown(socket.SHUT_RDWR)
            leaves.close()
            wait_until(lambda: embedder._batches._images[0].queued.is_cancelled())
            network.gate.set()
            assert waits.result().status_code == 200

        wait_until(lambda: 'outcome="given_up"} 1.0' in client.get("/metrics").text)
        wait_until(lambda: '/classify",status="499"' in client.get("/metrics").text)
    assert network.batches == [1]


def test_few_images_are_on_their_way_at_once_and_the_others_wait_without_a_thread(
    live_service, png
):
    url, app = live_service
    embedder, version = app.state.parts.embedder, app.state.parts.projects.default_encoder
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        register_birds(client, png)
        network, turns = hold_network(embedder, version), app.state.intake.turns
        turns.total_tokens = 2
        with ThreadPoolExecutor(5) as threads:
            answers = [
                threads.submit(client.post, "/v1/projects/birds/classify", files=files)
                for files in ({"files": png("red", n)} for n in range(5))
            ]
            wait_until(lambda: turns.statistics().tasks_waiting == 3)
            wait_until(lambda: embedder._admission.images == 2)
            assert client.get("/v1/projects").is_success
            network.gate.set()

        assert {answer.result().status_code for answer in answers} == {200}
        assert turns.borrowed_tokens == 0


class HeldNetwork(NamedTuple):
    """A network that computes when its gate is open."""

    gate: threading.Event
    entered: threading.Event
    batches: list[int]  # their sizes


def hold_network(embedder, version) -> HeldNetwork:
    loaded, network = (
        embedder._encoders.get(version),
        HeldNetwork(threading.Event(), threading.Event(), []),
    )
    embed = loaded.prepare().embed

    def embed_when_open(pixels):
        network.batches.append(len(pixels))
        network.entered.set()
        assert network.gate.wait(PATIENCE_S)
        return embed(pixels)

    loaded.serving = loaded.serving._replace(embed=embed_when_open)
    return network


def wait_until(condition):
    """Return when a condition holds that no event tells of."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def test_a_client_that_hangs_up_before_the_answer_costs_nobody_anything(client, live_url, png):
    address = urlsplit(live_url)
    content = png("red")
    for n in range(5):
        connection = http.client.HTTPConnection(address.hostname, address.port)
        connection.request(
            "POST", "/v1/projects/birds/pool", png("red", n), {"Content-Type": "image/png"}
        )
        connection.sock.close()
        connection.close()

    answer = client.post("/v1/projects/birds/pool", files={"files": content})

    assert answer.status_code == 201
    assert client.get("/livez").is_success
    assert 'status="500"' not in client.get("/metrics").text
