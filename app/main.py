"""The composition root: the only place where parts meet."""

import importlib.metadata
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from sqlalchemy.exc import SQLAlchemyError

from app import web
from app.api import routers
from app.api.parts import Parts
from app.encoders.learned_heads import LearnedHeads
from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.exchange.exports import Exports
from app.exchange.imports import Imports
from app.housekeeping import blob_check, blob_sweep
from app.housekeeping.blob_check import BlobProblem
from app.housekeeping.blob_sweep import Swept
from app.housekeeping.housekeeper import HOUR_S, Chore, Housekeeper, HousekeepingMetrics
from app.housekeeping.retention import Retention
from app.http import errors
from app.http.content_policy import DOCS_ASSETS
from app.http.guard import Authentication
from app.http.idempotency import Idempotency, StoredResponses
from app.http.limits import Admission, BodyLimit, Door
from app.http.openapi import DESCRIPTION, TAGS, complete_openapi
from app.http.request_log import HttpMetrics, RequestLog
from app.http.uploads import Intake
from app.inference.admission import AdmissionLimits
from app.inference.embedder import Embedder
from app.inference.metrics import InferenceMetrics
from app.inference.process import keep_freed_memory
from app.integrations.label_studio.backend import LabelStudioBackend
from app.integrations.label_studio.host import Host
from app.jobs.job_queue import JobQueue
from app.labeling.annotations import Annotations
from app.labeling.images import StoredImages
from app.labeling.labels import Labels
from app.labeling.projects import Projects
from app.labeling.uploads import Uploads
from app.logs import configure, logger
from app.prediction.cache import PredictorCache
from app.prediction.classify import Classification
from app.ranking.cosine_cache import Cosines
from app.ranking.ranking import Ranker
from app.ranking.reservations import Reservations
from app.ranking.similar import SimilarImages
from app.report.evaluation import Evaluations
from app.report.image_map import ImageMaps
from app.report.report import Reports
from app.settings import Settings
from app.sql.database import Database, SchemaOutOfDate, migrate
from app.sql.project_cache import ProjectCache
from app.storage.blobs import Blobs
from app.vectors.files import VectorFiles
from app.vectors.matrices import Vectors
from app.webhooks.delivery import Deliverer
from app.webhooks.subscriptions import Webhooks
from models.acquisition.strategies import strategies
from models.encoders import pick_device
from models.encoders.specs import parse
from models.images import PIXEL_ROOM
from models.runtimes import Resources
from models.runtimes.selector import RuntimeSelector
from models.runtimes.streams import Streams, compute_alone
from models.runtimes.trial import RuntimeTrial

log = logger("handful.main")
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
    parts = assemble(settings)
    responses = StoredResponses(parts.db, settings.idempotency_hours)
    app = FastAPIOffline(
        title="Handful",
        description=DESCRIPTION,
        version=importlib.metadata.version("handful"),
        lifespan=_lifespan(parts, responses),
        openapi_tags=[{"name": name} for name in TAGS],
        redoc_url=None,
        static_url=DOCS_ASSETS,
    )
    app.state.parts = parts
    app.state.door = Door(parts.embedder.admission, settings.request_threads)
    app.state.intake = Intake(settings.upload_limits, CapacityLimiter(TURNS * settings.max_batch))
    errors.install(app)
    for router in routers():
        app.router.routes.extend(router.routes)  # as they are: to include them would make all anew
    web.install(app)
    complete_openapi(app)
    app.add_middleware(Idempotency, answers=responses)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Admission, door=app.state.door)
    app.add_middleware(Authentication, settings=settings, metrics=parts.metrics)
    app.add_middleware(RequestLog, metrics=HttpMetrics(parts.metrics))
    return app


def assemble(settings: Settings) -> Parts:
    """The parts of a service, wired; nothing runs yet.

    Raises:
        StartRefused: the database or the data folder cannot be used.
        EncoderUnavailable: the default encoder cannot be loaded.
    """
    PIXEL_ROOM.size = settings.max_decode_bytes
    db, blobs = _open(settings)
    registry = _registry()
    device = pick_device(settings.device)
    versions = Versions(db, blobs, device)
    encoder_id = versions.get_or_create(*parse(settings.encoder))
    embedder = _embedder(settings, db, versions, encoder_id, registry)
    files = VectorFiles(settings.vector_files, settings.min_free_bytes)
    vectors = Vectors(db, settings.vector_cache_bytes, files)
    learned_heads = LearnedHeads(db, blobs)
    predictors = PredictorCache(db, vectors, learned_heads.build)
    projects, labels = Projects(db, encoder_id, vectors.forget), Labels(db)
    known = ProjectCache(db)
    uploads, annotations = Uploads(db, known, embedder, blobs), Annotations(db)
    ranker = Ranker(db, vectors, predictors, Cosines())
    studio = Host(
        settings.label_studio_url,
        settings.label_studio_token.get_secret_value(),
        settings.max_file_bytes,
    )
    return Parts(
        settings=settings,
        device=device,
        metrics=registry,
        db=db,
        blobs=blobs,
        vectors=vectors,
        embedder=embedder,
        health_limiter=CapacityLimiter(2),
        projects=projects,
        labels=labels,
        uploads=uploads,
        images=StoredImages(db, blobs, settings.max_pixels),
        annotations=annotations,
        classification=Classification(db, known, embedder, predictors),
        ranker=ranker,
        reservations=Reservations(db, ranker),
        similar=SimilarImages(db, vectors),
        reports=Reports(db, predictors),
        maps=ImageMaps(db, vectors, predictors),
        evaluations=Evaluations(db, vectors, learned_heads.build),
        exports=Exports(db, blobs, predictors),
        imports=Imports(db, uploads, annotations, labels),
        queue=JobQueue(
            db, settings.lease_seconds, settings.job_attempts, settings.job_backoff_seconds
        ),
        versions=versions,
        learned_heads=learned_heads,
        promotions=Promotions(db, blobs, settings.max_pixels),
        webhooks=Webhooks(db, settings.webhooks_to_private_addresses),
        deliverer=Deliverer(db, private=settings.webhooks_to_private_addresses),
        label_studio=LabelStudioBackend(
            db,
            uploads,
            annotations,
            predictors,
            projects,
            labels,
            ranker,
            studio,
            strategies["adaptive"](),
        ),
    )


def _embedder(
    settings: Settings,
    db: Database,
    versions: Versions,
    encoder_id: UUID,
    registry: CollectorRegistry,
) -> Embedder:
    """The embedder, with the default encoder loaded; what cannot be loaded stops the start."""
    metrics = InferenceMetrics(registry)
    db.observe(metrics.stage.labels("database").observe)
    threads = compute_alone()
    if versions.device.type == "cpu":
        keep_freed_memory()
    cache = settings.data_dir.resolve() / "cache" / "runtimes"
    resources = Resources(threads=threads, batch=settings.max_batch, cache=cache)
    embedder = Embedder(
        versions.load,
        RuntimeSelector(settings.runtime, resources, _log_trials),
        AdmissionLimits(
            settings.max_queue_images, settings.max_queue_bytes, settings.max_delay_seconds
        ),
        warm_up=encoder_id,
        threads=threads,
        max_batch=settings.max_batch,
        max_pixels=settings.max_pixels,
        decode_threads=settings.decode_threads or os.cpu_count() or 1,
        encoders_in_memory=settings.encoders_in_memory,
        stall_s=settings.stall_seconds,
        metrics=metrics,
    )
    embedder.encoder(encoder_id)
    return embedder


def _lifespan(
    parts: Parts, responses: StoredResponses
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What runs while the service does: threads that embed, tell webhooks and keep house."""
    settings = parts.settings
    housekeeper = _housekeeper(parts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.request_threads
        if parts.db.is_sqlite:
            await anyio.to_thread.run_sync(responses.release_all)
        with parts.embedder, parts.deliverer, housekeeper:
            yield
        parts.vectors.close()
        parts.db.close()

    return lifespan


def _housekeeper(parts: Parts) -> Housekeeper:
    """The thread that removes what nobody needs any more."""
    settings, metrics = parts.settings, HousekeepingMetrics(parts.metrics)
    retention = Retention(
        parts.db,
        settings.delivery_days,
        settings.job_event_days,
        settings.reservation_days,
        settings.idempotency_hours,
    )

    def count_rows() -> None:
        for table, rows in retention.rows().items():
            metrics.rows.labels(table).set(rows)

    chores = (
        Chore("deliveries", retention.deliveries),
        Chore("job_events", retention.job_events),
        Chore("reservations", retention.reservations),
        Chore("answers", retention.answers),
        Chore("removals", retention.removals),
        Chore(
            "files",
            lambda: blob_sweep.sweep(parts.db, parts.blobs).removed,
            every_s=settings.sweep_hours * HOUR_S,
        ),
        Chore("vectors", parts.vectors.sweep, shared=False),
        Chore("rows", count_rows, shared=False),
    )
    return Housekeeper(parts.db, chores, metrics)


def _log_trials(trials: Sequence[RuntimeTrial], streams: Streams | None) -> None:
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
        streams=streams.number if streams else 1,
        images_per_batch=streams.batch if streams else None,
        images_per_s=round(streams.images_per_s, 1) if streams else None,
    )


def sweep(settings: Settings) -> Swept:
    """Mark files that nothing refers to, and remove those that were marked for long."""
    with closing_database(settings) as (db, blobs):
        return blob_sweep.sweep(db, blobs)


def check(settings: Settings) -> Iterator[BlobProblem]:
    """Files that are missing, damaged, or of no use."""
    with closing_database(settings) as (db, blobs):
        yield from blob_check.check(db, blobs)


@contextmanager
def closing_database(settings: Settings) -> Iterator[tuple[Database, Blobs]]:
    """Database and files of a service, for what needs no more.

    Raises:
        StartRefused: the database or the data folder cannot be used.
    """
    db, blobs = _open(settings)
    try:
        yield db, blobs
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


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
