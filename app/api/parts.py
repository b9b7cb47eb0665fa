"""The parts of the application that routes ask for, put together in `app.main`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

import torch
from anyio import CapacityLimiter
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.encoders.learned_heads import LearnedHeads
from app.encoders.promotion import Promotions
from app.encoders.versions import Versions
from app.exchange.exports import Exports
from app.exchange.imports import Imports
from app.inference.embedder import Embedder
from app.integrations.label_studio.backend import LabelStudioBackend
from app.jobs.job_queue import JobQueue
from app.labeling.annotations import Annotations
from app.labeling.images import StoredImages
from app.labeling.labels import Labels
from app.labeling.projects import Projects
from app.labeling.uploads import Uploads
from app.prediction.classify import Classification
from app.ranking.ranking import Ranker
from app.ranking.reservations import Reservations
from app.ranking.similar import SimilarImages
from app.report.evaluation import Evaluations
from app.report.image_map import ImageMaps
from app.report.report import Reports
from app.settings import Settings
from app.sql.database import Database
from app.storage.blobs import Blobs
from app.vectors.matrices import Vectors
from app.webhooks.delivery import Deliverer
from app.webhooks.subscriptions import Webhooks

Part = TypeVar("Part")


def never() -> bool:
    """That of a service that nobody stops."""
    return False


@dataclass
class Parts:
    """All that a running service is made of."""

    settings: Settings
    device: torch.device
    metrics: CollectorRegistry
    db: Database
    blobs: Blobs
    vectors: Vectors
    embedder: Embedder
    health_limiter: CapacityLimiter  # threads for `/readyz`, which requests do not take
    projects: Projects
    labels: Labels
    uploads: Uploads
    images: StoredImages
    annotations: Annotations
    classification: Classification
    ranker: Ranker
    reservations: Reservations
    similar: SimilarImages
    reports: Reports
    maps: ImageMaps
    evaluations: Evaluations
    exports: Exports
    imports: Imports
    queue: JobQueue
    versions: Versions
    learned_heads: LearnedHeads
    promotions: Promotions
    webhooks: Webhooks
    deliverer: Deliverer
    label_studio: LabelStudioBackend
    draining: Callable[[], bool] = never  # whether the server is about to stop
    stopping: Callable[[], bool] = never  # whether it stops now, and streams have to end


def parts_of(request: Request) -> Parts:
    """The parts of the application that a request came to."""
    return cast(Parts, request.app.state.parts)


def part(get: Callable[[Parts], Part]) -> Callable[[Request], Awaitable[Part]]:
    """A dependency: one of the parts."""

    async def find(request: Request) -> Part:  # a plain function would cost a change of threads
        return get(parts_of(request))

    return find


async def _all(request: Request) -> Parts:
    return parts_of(request)


AllParts = Annotated[Parts, Depends(_all)]
AnnotationService = Annotated[Annotations, Depends(part(lambda parts: parts.annotations))]
ClassificationService = Annotated[Classification, Depends(part(lambda parts: parts.classification))]
EvaluationService = Annotated[Evaluations, Depends(part(lambda parts: parts.evaluations))]
ExportService = Annotated[Exports, Depends(part(lambda parts: parts.exports))]
ImageService = Annotated[StoredImages, Depends(part(lambda parts: parts.images))]
ImportService = Annotated[Imports, Depends(part(lambda parts: parts.imports))]
JobService = Annotated[JobQueue, Depends(part(lambda parts: parts.queue))]
HeadService = Annotated[LearnedHeads, Depends(part(lambda parts: parts.learned_heads))]
LabelService = Annotated[Labels, Depends(part(lambda parts: parts.labels))]
LabelStudioService = Annotated[LabelStudioBackend, Depends(part(lambda parts: parts.label_studio))]
MapService = Annotated[ImageMaps, Depends(part(lambda parts: parts.maps))]
ProjectService = Annotated[Projects, Depends(part(lambda parts: parts.projects))]
PromotionService = Annotated[Promotions, Depends(part(lambda parts: parts.promotions))]
RankerService = Annotated[Ranker, Depends(part(lambda parts: parts.ranker))]
ReportService = Annotated[Reports, Depends(part(lambda parts: parts.reports))]
ReservationService = Annotated[Reservations, Depends(part(lambda parts: parts.reservations))]
SimilarService = Annotated[SimilarImages, Depends(part(lambda parts: parts.similar))]
UploadService = Annotated[Uploads, Depends(part(lambda parts: parts.uploads))]
WebhookService = Annotated[Webhooks, Depends(part(lambda parts: parts.webhooks))]
