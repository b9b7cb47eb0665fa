"""Many clients at once, and clients that leave, behind a real socket."""

import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from app.ranking import ranking as choosing


@pytest.fixture
def client(live_url):
    with httpx.Client(base_url=live_url, timeout=60) as client:
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
        added = [threads.submit(add, n) for n in range(40)]
        asked = [threads.submit(ask, n) for n in range(20)]
        images = {future.result() for future in added}
        assert {future.result() for future in asked} == {200}

    assert len(images) == 40
    project = client.get("/v1/projects/birds").json()
    assert (project["support"], project["pool"]) == (42, 0)
    assert client.post("/v1/projects/birds/pool/rank", json={}).json()["images"] == []


def test_a_few_rankings_are_made_at_once_and_the_others_wait(client, png, monkeypatch):
    files = [("files", (f"{n}.png", png("red", n))) for n in range(3)]
    client.post("/v1/projects/birds/pool", files=files).raise_for_status()
    rank, lock, now, most = choosing.choose, threading.Lock(), 0, 0

    def slowly(*args, **options):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return rank(*args, **options)

    monkeypatch.setattr(choosing, "choose", slowly)
    body = {"budget": 2, "strategy": {"name": "random"}}

    with ThreadPoolExecutor(12) as threads:
        answers = list(
            threads.map(lambda _: client.post("/v1/projects/birds/pool/rank", json=body), range(24))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert 1 < most <= choosing.RANKINGS_AT_ONCE


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

    for _ in range(100):
        counted = client.get("/metrics").text
        if counted.count('route="/v1/projects/{project}/pool",status="499"'):
            break
        time.sleep(0.05)

    assert client.get("/v1/projects/birds").json()["pool"] == 0
    assert client.get("/livez").is_success
    assert "handful_queue_images 0.0" in client.get("/metrics").text
    assert 'status="500"' not in counted
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
    with httpx.Client(base_url=url, timeout=60) as client:
        register_birds(client, png)
        loaded = embedder._loaded(version)
        embed, busy, free = loaded.serving.embed, threading.Event(), threading.Event()
        computed = []

        def held(pixels):
            computed.append(len(pixels))
            busy.set()
            assert free.wait(60)
            return embed(pixels)

        loaded.serving = loaded.serving._replace(embed=held)
        with ThreadPoolExecutor(1) as threads:
            files = {"files": png("red", 1)}
            waits = threads.submit(client.post, "/v1/projects/birds/classify", files=files)
            assert busy.wait(60)
            address = urlsplit(url)
            leaves = http.client.HTTPConnection(address.hostname, address.port)
            headers = {"Content-Type": "image/png"}
            leaves.request("POST", "/v1/projects/birds/classify", png("red", 2), headers)
            wait_until(lambda: len(embedder._ready) == 1)
            leaves.sock.shutdown(socket.SHUT_RDWR)
            leaves.close()
            wait_until(lambda: embedder._ready[0].item.given_up())
            free.set()
            assert waits.result().status_code == 200

        wait_until(lambda: 'outcome="given_up"} 1.0' in client.get("/metrics").text)
        wait_until(lambda: '/classify",status="499"' in client.get("/metrics").text)
    assert computed == [1]


def test_few_images_are_on_their_way_at_once_and_the_others_wait_without_a_thread(
    live_service, png
):
    url, app = live_service
    embedder, version = app.state.parts.embedder, app.state.parts.projects.default_encoder
    with httpx.Client(base_url=url, timeout=60) as client:
        register_birds(client, png)
        loaded, free, turns = embedder._loaded(version), threading.Event(), app.state.intake.turns
        embed = loaded.serving.embed

        def held(pixels):
            assert free.wait(60)
            return embed(pixels)

        loaded.serving = loaded.serving._replace(embed=held)
        turns.total_tokens = 2
        with ThreadPoolExecutor(5) as threads:
            answers = [
                threads.submit(client.post, "/v1/projects/birds/classify", files=files)
                for files in ({"files": png("red", n)} for n in range(5))
            ]
            wait_until(lambda: turns.statistics().tasks_waiting == 3)
            wait_until(lambda: embedder._images == 2)
            assert client.get("/v1/projects").is_success
            free.set()

        assert {answer.result().status_code for answer in answers} == {200}
        assert turns.borrowed_tokens == 0


def wait_until(there):
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
