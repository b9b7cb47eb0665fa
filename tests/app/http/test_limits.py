"""Uploads that would wait too long, and bodies that are too large, are turned away."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from app.main import create_app


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_declared_or_not(limited, declared):
    def chunks():
        for _ in range(300):
            yield b"x" * 1000

    answer = limited.post(
        "/v1/projects/birds/pool",
        content=b"x" * 300_000 if declared else chunks(),
        headers={"Content-Type": "application/zip"},
    )

    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["detail"]


def test_uploads_that_would_wait_too_long_for_a_thread_are_turned_away_unread(
    settings, png, monkeypatch
):
    app = create_app(settings.model_copy(update={"request_threads": 2}))
    embedder, gate, entered = app.state.parts.embedder, threading.Event(), threading.Semaphore(0)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(2) as threads:
        client.post("/v1/projects", json={"name": "birds"})
        embed = embedder.embed

        def late(*args, **options):
            entered.release()
            assert gate.wait(100)
            return embed(*args, **options)

        def post(seed):
            image = {"content": png("red", seed), "headers": {"Content-Type": "image/png"}}
            return client.post("/v1/projects/birds/pool", **image)

        monkeypatch.setattr(embedder, "embed", late)
        monkeypatch.setattr(embedder, "is_too_late", lambda images: images > 2)
        waiting = [threads.submit(post, seed) for seed in range(2)]
        assert entered.acquire(timeout=60)
        assert entered.acquire(timeout=60)

        refused = post(3)

        assert not any(upload.done() for upload in waiting)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["type"] == "/problems/overloaded"
        assert "handful_rejected_images_total 1.0" in client.get("/metrics").text
        gate.set()
        assert [upload.result().status_code for upload in waiting] == [201, 201]
        monkeypatch.undo()
        assert post(4).status_code == 201
