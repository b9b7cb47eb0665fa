"""Whether the service lives, is ready, and what it has done."""

import importlib.metadata
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from app.api import resource_router
from app.api.parts import AllParts, Parts
from handful.contract.service import ServiceRead

router = resource_router(tags=["service"])


# Coroutines, so that they answer while every thread of the service is busy.


@router.get("/livez", responses={503: {"description": "A thread died or stands still."}})
async def livez(parts: AllParts) -> JSONResponse:
    """Whether every thread makes progress; if not, restart the service."""
    stall_s = parts.settings.stall_seconds
    ailments = parts.embedder.ailments() + parts.deliverer.ailments(stall_s)
    return JSONResponse({"live": not ailments, "ailments": ailments}, 503 if ailments else 200)


@router.get("/readyz", responses={503: {"description": "Not ready for requests."}})
async def readyz(parts: AllParts) -> JSONResponse:
    """Whether database, encoder and disk are ready for requests, and the service is to stay."""
    checks: dict[str, Any] = await anyio.to_thread.run_sync(
        _readiness, parts, limiter=parts.health_limiter
    )
    if parts.draining():
        checks["service"] = "stopping"
    ready = all(value == "ok" for value in checks.values())
    return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(parts: AllParts) -> Response:
    """Counters and timings in Prometheus' text format."""
    text = generate_latest(parts.metrics)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/version")
async def version(parts: AllParts) -> ServiceRead:
    """The version of the service, its default encoder and device."""
    settings = parts.settings
    return ServiceRead(
        version=importlib.metadata.version("handful"),
        encoder=settings.encoder,
        device=str(parts.device),
        runtime=parts.embedder.runtime,
    )


def _readiness(parts: Parts) -> dict[str, str]:
    """What a service needs to answer, by name: "ok", or what is wrong."""
    checks = {
        "database": "ok",
        "encoder": "ok" if parts.embedder.warm.is_set() else "warming up",
        "disk": "ok",
    }
    try:
        parts.db.ping()
    except SQLAlchemyError as error:
        checks["database"] = f"does not answer: {type(error).__name__}"
    if parts.db.is_sqlite and not Path(parts.db.engine.url.database or "").exists():
        # Connections that are open still answer, and what they write is lost.
        checks["database"] = "its file is gone: put the data folder back and restart the service"
    try:
        free, least = parts.blobs.free_bytes(), parts.settings.min_free_bytes
    except OSError as error:
        checks["disk"] = f"the folder of images cannot be read: {error.strerror or error}"
    else:
        if free is not None and free < least:
            checks["disk"] = f"{free} bytes free, less than {least}"
    return checks
