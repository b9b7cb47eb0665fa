"""The composition root: the only place where parts meet."""

import importlib.metadata
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import torch
from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy.exc import SQLAlchemyError

from app import problems, web
from app.api import refuse_unknown_parameters, routers
from app.archives import Limits
from app.choosing import Choosing
from app.cosines import Cosines
from app.db import Database, SchemaOutOfDate, migrate
from app.exports import Exports
from app.idempotency import Answers
from app.imports import Imports
from app.inference import Embedder, InferenceMetrics, keep_freed_memory
from app.integrations.label_studio import LabelStudio
from app.integrations.label_studio.host import Host
from app.labeling import Labeling
from app.logs import configure, logger
from app.middleware import (
    DOCS_ASSETS,
    Admission,
    BodyLimit,
    Guard,
    HttpMetrics,
    Idempotency,
    RequestLog,
)
from app.prediction import ProjectHeads
from app.projects import Projects
from app.promotion import Promotions
from app.queue import Queue
from app.report import Reports
from app.schemas import ProblemRead
from app.settings import Settings
from app.storage import Blobs
from app.vector_files import VectorFiles
from app.vectors import Vectors
from app.versions import Versions
from app.webhooks import Deliverer, Webhooks
from models.acquisition.strategies import strategies
from models.encoders import pick_device
from models.encoders.specs import parse
from models.runtimes import Resources
from models.runtimes.selector import RuntimeSelector
from models.runtimes.streams import Streams, compute_alone
from models.runtimes.trial import RuntimeTrial

log = logger("handful.main")
DESCRIPTION = """A handful of labels is enough: register a few support images per class, classify
queries by nearest centroid, and ask which unlabeled images are most worth labeling."""
TAGS = (
    "projects",
    "labels",
    "images",
    "pool",
    "classify",
    "report",
    "exchange",
    "jobs",
    "augmentations",
    "pretraining",
    "encoders",
    "label studio",
    "webhooks",
    "service",
)  # as /docs shows them


TURNS = 2  # requests of `classify` for each image of a batch: one computes, one follows


class StartRefused(RuntimeError):
    """The service cannot start; the message says why in one sentence."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the service.

    Raises:
        StartRefused: the database or the data folder cannot be used.
        EncoderUnavailable: the default encoder cannot be loaded.
    """
    settings = settings or Settings()
    configure(settings.log_level)
    registry = _registry()
    db, blobs = _open(settings)
    metrics = InferenceMetrics(registry)
    db.observe(metrics.stage.labels("database").observe)
    device = pick_device(settings.device)
    threads = compute_alone()
    if device.type == "cpu":
        keep_freed_memory()
    versions = Versions(db, blobs, device)
    encoder_id = versions.ensure(*parse(settings.encoder))
    embedder = Embedder(
        versions.load,
        _chooser(settings, threads),
        warm_up=encoder_id,
        threads=threads,
        max_batch=settings.max_batch,
        max_images=settings.max_queue_images,
        max_bytes=settings.max_queue_bytes,
        max_delay_s=settings.max_delay_seconds,
        max_pixels=settings.max_pixels,
        decode_threads=settings.decode_threads or os.cpu_count() or 1,
        encoders_in_memory=settings.encoders_in_memory,
        stall_s=settings.stall_seconds,
        metrics=metrics,
    )
    embedder.encoder(encoder_id)  # what cannot be loaded stops the start, not a request
    answers = Answers(db, settings.idempotency_hours)
    files = VectorFiles(settings.vector_files, settings.min_free_bytes)
    vectors = Vectors(db, settings.vector_cache_bytes, files)
    deliverer = Deliverer(db, private=settings.webhooks_to_private_addresses)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.request_threads
        if db.is_sqlite:
            await anyio.to_thread.run_sync(answers.release_all)
        await anyio.to_thread.run_sync(vectors.sweep)
        await anyio.to_thread.run_sync(deliverer.sweep)
        with embedder, deliverer:
            yield
        vectors.close()
        db.close()

    app = FastAPIOffline(
        title="Handful",
        description=DESCRIPTION,
        version=importlib.metadata.version("handful"),
        lifespan=lifespan,
        dependencies=[Depends(refuse_unknown_parameters)],
        openapi_tags=[{"name": name} for name in TAGS],
        redoc_url=None,
        static_url=DOCS_ASSETS,
    )
    app.state.settings = settings
    app.state.device = device
    app.state.metrics = registry
    app.state.embedder = embedder
    app.state.upload_limits = Limits.of(settings)
    app.state.health_limiter = CapacityLimiter(2)
    app.state.turns = CapacityLimiter(TURNS * settings.max_batch)
    app.state.readiness = lambda: _readiness(db, blobs, embedder, settings.min_free_bytes)
    app.state.projects = Projects(db, encoder_id, vectors)
    app.state.queue = Queue(db, settings.lease_seconds, settings.job_attempts)
    app.state.versions = versions
    app.state.promotions = Promotions(db, blobs, settings.max_pixels)
    app.state.draining = app.state.stopping = lambda: False
    project_heads = ProjectHeads(db, vectors)
    app.state.labeling = Labeling(db, embedder, blobs, vectors, project_heads, settings.max_pixels)
    app.state.exports = Exports(db, blobs, project_heads)
    app.state.imports = Imports(db, app.state.labeling, app.state.projects)
    app.state.choosing = Choosing(db, vectors, project_heads, Cosines())
    app.state.label_studio = LabelStudio(
        db,
        app.state.labeling,
        project_heads,
        app.state.projects,
        app.state.choosing,
        Host(
            settings.label_studio_url,
            settings.label_studio_token.get_secret_value(),
            settings.max_file_bytes,
        ),
        strategies["adaptive"](),
    )
    app.state.webhooks = Webhooks(db, settings.webhooks_to_private_addresses)
    app.state.reports = Reports(db, vectors, project_heads)
    problems.install(app)
    for router in routers():
        app.include_router(router)
    web.install(app)
    _document(app)
    app.add_middleware(Idempotency, answers=answers)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Admission, embedder=embedder, threads=settings.request_threads)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(RequestLog, metrics=HttpMetrics(registry))
    return app


def _chooser(settings: Settings, threads: int) -> RuntimeSelector:
    cache = settings.data_dir.resolve() / "cache" / "runtimes"
    resources = Resources(threads=threads, batch=settings.max_batch, cache=cache)
    return RuntimeSelector(settings.runtime, resources, _tell_trials)


def _tell_trials(trials: Sequence[RuntimeTrial], lanes: Streams | None) -> None:
    for trial in trials:
        log.info(
            "runtime tried",
            runtime=trial.runtime,
            refusal=trial.refusal or None,
            agreement=round(trial.agreement, 6),
            images_per_s={size: round(speed, 1) for size, speed in trial.images_per_s.items()},
        )
    log.info(
        "runtime chosen",
        runtime=trials[-1].runtime,
        lanes=lanes.number if lanes else 1,
        images_per_batch=lanes.batch if lanes else None,
        images_per_s=round(lanes.images_per_s, 1) if lanes else None,
    )


def sweep(settings: Settings) -> int:
    """Remove the files of deleted images; the number removed."""
    db, blobs = _open(settings)
    versions = Versions(db, blobs, torch.device("cpu"))
    try:
        return blobs.sweep(versions.blob_in_use)
    finally:
        db.close()


def _open(settings: Settings) -> tuple[Database, Blobs]:
    try:
        if settings.database.startswith("sqlite"):
            Path(settings.data_dir).mkdir(parents=True, exist_ok=True)
            migrate(settings.database)
        db = Database(settings.database)
        db.check_schema()
        return db, Blobs(settings.blobs)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().partition("\n")[0]
        raise StartRefused(f"the database cannot be opened: {reason}") from error
    except SchemaOutOfDate as error:
        raise StartRefused(str(error)) from error
    except OSError as error:
        raise StartRefused(
            f"the data folder {settings.data_dir} cannot be used: {error.strerror or error}"
        ) from error


def _readiness(
    db: Database, blobs: Blobs, embedder: Embedder, min_free_bytes: int
) -> dict[str, str]:
    checks = {
        "database": "ok",
        "encoder": "ok" if embedder.warm.is_set() else "warming up",
        "disk": "ok",
    }
    try:
        db.ping()
    except SQLAlchemyError as error:
        checks["database"] = f"does not answer: {type(error).__name__}"
    free = blobs.free_bytes()
    if free is not None and free < min_free_bytes:
        checks["disk"] = f"{free} bytes free, less than {min_free_bytes}"
    return checks


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _document(app: FastAPI) -> None:
    """Complete the OpenAPI document with what FastAPI cannot see."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document["components"]
        components["schemas"].setdefault("ProblemRead", ProblemRead.model_json_schema())
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    # FastAPI's own description of a 422 is not how we answer.
                    content = response.get("content", {})
                    schema = content.get("application/json", {}).get("schema", {})
                    if schema.get("$ref", "").endswith("/HTTPValidationError"):
                        response["content"] = {
                            "application/problem+json": {
                                "schema": {"$ref": "#/components/schemas/ProblemRead"}
                            }
                        }
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
