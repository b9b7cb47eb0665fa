"""Whether the service lives, is ready, and what it has done."""

import importlib.metadata
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

router = APIRouter(tags=["service"])


class VersionRead(BaseModel):
    """What runs here."""

    version: str
    encoder: str
    device: str
    runtime: str | None


# Coroutines, so that they answer while every thread of the service is busy.


@router.get("/livez", responses={503: {"description": "A thread died or stands still."}})
async def livez(request: Request) -> JSONResponse:
    """Whether every thread makes progress; if not, restart the service."""
    ailments = request.app.state.embedder.ailments()
    return JSONResponse({"live": not ailments, "ailments": ailments}, 503 if ailments else 200)


@router.get("/readyz", responses={503: {"description": "Not ready for requests."}})
async def readyz(request: Request) -> JSONResponse:
    """Whether database, encoder and disk are ready for requests, and the service is to stay."""
    checks: dict[str, Any] = await anyio.to_thread.run_sync(
        request.app.state.readiness, limiter=request.app.state.health_limiter
    )
    if request.app.state.draining():
        checks["service"] = "stopping"
    ready = all(value == "ok" for value in checks.values())
    return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Counters and timings in Prometheus' text format."""
    text = generate_latest(request.app.state.metrics)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/version")
async def version(request: Request) -> VersionRead:
    """The version of the service, its default encoder and device."""
    settings = request.app.state.settings
    return VersionRead(
        version=importlib.metadata.version("handful"),
        encoder=settings.encoder,
        device=str(request.app.state.device),
        runtime=request.app.state.embedder.runtime,
    )
