"""Whether the service lives and is ready."""

import errno
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, event, make_url, text

from app.main import create_app
from app.storage.blobs import Blobs
from models.runtimes.kinds import runtimes


def ready(service) -> dict:
    """What a service answers when it is warm, and the status."""
    assert service.app.state.parts.embedder.warm.wait(240)  # beside other tests, perhaps
    answer = service.get("/readyz")
    return answer.json() | {"status": answer.status_code}


def test_a_running_service_lives_and_becomes_ready(service):
    assert service.get("/livez").json() == {"live": True, "ailments": []}
    assert ready(service) == {
        "ready": True,
        "checks": {"database": "ok", "encoder": "ok", "disk": "ok"},
        "status": 200,
    }


def test_a_service_that_is_not_warm_is_not_ready(service):
    ready(service)
    service.app.state.parts.embedder.warm.clear()

    answer = service.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["encoder"] == "warming up"


def test_a_data_folder_that_is_gone_fails_readyz(service, settings):
    settings.data_dir.rename(settings.data_dir.with_name("elsewhere"))

    answer = service.get("/readyz")

    settings.data_dir.with_name("elsewhere").rename(settings.data_dir)
    assert answer.status_code == 503
    assert "No such file or directory" in answer.json()["checks"]["disk"]
    assert "its file is gone" in answer.json()["checks"]["database"]
    assert str(settings.data_dir) not in answer.text


def test_a_dead_thread_fails_livez(service, monkeypatch):
    embedder = service.app.state.parts.embedder
    monkeypatch.setattr(embedder, "ailments", lambda: ["thread model has ended: None"])

    answer = service.get("/livez")

    assert answer.status_code == 503
    assert answer.json()["ailments"] == ["thread model has ended: None"]


def test_a_disk_that_is_nearly_full_fails_readyz(service, monkeypatch):
    monkeypatch.setattr(Blobs, "free_bytes", lambda _: 1000)

    answer = ready(service)

    assert answer["status"] == 503
    assert answer["checks"]["disk"].startswith("1000 bytes free")


def test_a_database_that_does_not_answer_fails_readyz_and_is_a_503(settings, postgresql):
    url = postgresql()
    name = make_url(url).database
    admin = create_engine(make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    app = create_app(settings.model_copy(update={"database_url": url}))
    with TestClient(app, base_url="http://localhost") as client:
        ready(client)
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :n"),
                {"n": name},
            )

        answer = client.get("/readyz")
        listing = client.get("/v1/projects")

        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        again = client.get("/v1/projects")
    admin.dispose()

    assert answer.status_code == 503
    assert answer.json()["checks"]["database"].startswith("does not answer")
    assert listing.status_code == 503
    assert listing.headers["content-type"] == "application/problem+json"
    assert int(listing.headers["Retry-After"]) > 0
    assert again.status_code == 200


def test_metrics_count_requests_and_images(birds, png):
    birds.post("/v1/projects/birds/pool", files={"files": png("red")})
    birds.post("/v1/projects/birds/pool", files={"files": b"no image"})

    text = birds.get("/metrics").text

    assert 'handful_images_total{outcome="embedded"} 1.0' in text
    assert 'handful_images_total{outcome="failed"} 1.0' in text
    assert 'route="/v1/projects/{project}/pool",status="201"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_metrics_tell_the_time_of_each_stage(birds, png):
    for colour in ("red", "blue"):
        birds.post(f"/v1/projects/birds/labels/{colour}/support", files={"files": png(colour)})
    birds.post("/v1/projects/birds/classify", files={"files": png("red", 1)})

    text = birds.get("/metrics").text

    for stage, least in {"admit": 3, "decode": 3, "queue": 3, "forward": 3, "post": 1}.items():
        assert f'handful_stage_seconds_count{{stage="{stage}"}} {least}.0' in text
    used = re.search(r'handful_stage_seconds_count{stage="database"} (\d+)', text)
    assert int(used[1]) > 5


def test_the_version_names_encoder_device_and_runtime(service):
    ready(service)

    assert service.get("/v1/version").json() == {
        "version": "0.1.0",
        "encoder": "conv4:8",
        "device": "cpu",
        "runtime": "pytorch",
    }


def test_a_service_chooses_a_runtime_and_embeds_alike_with_any(settings, png, monkeypatch):
    monkeypatch.setattr("models.runtimes.trial.SECONDS", 0.01)  # whichever is the fastest
    vectors = []
    for runtime in ("pytorch", "auto"):
        changed = {"runtime": runtime, "data_dir": settings.data_dir / runtime}
        app = create_app(settings.model_copy(update=changed))
        with TestClient(app, base_url="http://localhost") as service:
            ready(service)
            assert service.get("/v1/version").json()["runtime"] in runtimes
            (embedded,) = app.state.parts.embedder.embed(
                app.state.parts.projects.default_encoder, [png("blue")]
            )
            vectors.append(embedded.vector.float())

    assert vectors[0] @ vectors[1] >= 0.999


def test_a_full_disk_is_a_503_with_nothing_half_stored(birds, png, settings, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = [("files", png("red")), ("files", png("blue"))]
    with monkeypatch.context() as patch:
        patch.setattr("app.storage.blobs.os.fsync", full)
        answer = birds.post("/v1/projects/birds/labels/new/support", files=files)

    assert answer.status_code == 503
    assert "the disk is full" in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    project = birds.get("/v1/projects/birds").json()
    assert (project["labels"], project["support"], project["pool"]) == (0, 0, 0)
    assert birds.post("/v1/projects/birds/pool", files=files).status_code == 201


def test_a_database_on_a_full_disk_is_a_503(birds, png, monkeypatch):
    engine = birds.app.state.parts.projects.db.engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    pool = engine.pool

    def limit(connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(pool, "checkout", limit)
    stored = 0
    refused: list[Any] = []
    while len(refused) < 3:
        picture = png("red", stored + len(refused))
        answer = birds.post("/v1/projects/birds/pool", files={"files": picture})
        if answer.status_code == 201:
            stored += 1
        else:
            refused.append(answer)
    event.remove(pool, "checkout", limit)

    assert {answer.status_code for answer in refused} == {503}
    assert "no space left" in refused[0].json()["detail"]
    assert birds.get("/v1/projects/birds").json()["pool"] == stored


@pytest.mark.parametrize("spooled", [True, False])
def test_an_upload_that_does_not_fit_its_temporary_file_is_a_503(birds, png, monkeypatch, spooled):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.rollover", full)
    content = b"x" * 3_000_000
    answer = (
        birds.post("/v1/projects/birds/pool", files={"files": content})
        if spooled
        else birds.post(
            "/v1/projects/birds/pool", content=content, headers={"Content-Type": "application/zip"}
        )
    )

    assert answer.status_code == 503, answer.text
    assert "no space for the upload" in answer.json()["detail"]


def test_free_space_is_read_from_the_disk(settings, monkeypatch):
    blobs, folders = Blobs(settings.blobs), []

    def disk_usage(folder):
        folders.append(Path(folder))
        return SimpleNamespace(free=12345)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)

    assert blobs.free_bytes() == 12345
    assert settings.data_dir in [folders[0], *folders[0].parents]
