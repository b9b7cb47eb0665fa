"""What a request costs beside its image: CPU of one raw photo, by part.

The service runs in this process, on an event loop as in `handful serve`, and is given requests as
the server gives them to it; nothing is decoded or embedded, and no byte goes over a socket. A part
is what remains when what it calls is measured alone. Each figure is the CPU of all threads, the
best of several rounds, in which all are measured in turn. For comparison: a photo whose length is
not said goes FastAPI's way to the same answer, and `project` is the query that is spared while the
database has not changed.
"""

import asyncio
import io
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvloop
from fastapi import FastAPI
from PIL import Image
from starlette.middleware.exceptions import ExceptionMiddleware

from app.api.classify import show_prediction
from app.api.parts import Parts
from app.inference.images import Embedded
from app.labeling.uploads import Upload
from app.main import create_app
from app.prediction.predictor import ClassifyOptions
from app.settings import Settings
from app.sql.lookups import find_project
from bench.figures import spread
from bench.harness import Options, Result, option, run
from handful.contract.classify import ClassifyRead

PROJECT = "request"
LABELS, SHOTS = 10, 5
REQUESTS = 200  # of a round
SHARE = 0.8  # of FastAPI's way, at most
CLASSIFY, POOL = (f"/v1/projects/{PROJECT}/{what}" for what in ("classify", "pool"))
Turn = Callable[[], Awaitable[None]]


def measure(options: Options) -> Result:
    """Time requests and what they call, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder), runtime="pytorch", device="cpu", log_level="WARNING"
        )
        rounds = uvloop.run(_rounds(create_app(settings), options.rounds))
    rows = {name: spread([1000 * row[name] for row in rounds]) for name in rounds[0]}
    best = {name: row["lowest"] for name, row in rows.items()}
    parts = {
        "middlewares": best["classify"] - best["its route"],
        "routing, parameters, body, answer": best["its route"] - best["its use case"],
        "head": best["head"],
        "rest of the use case": best["its use case"] - best["head"],
        "what is shown, as JSON": best["answer"],
    }
    headline = (
        f"a photo to classify costs {best['classify']:.2f} ms of CPU beside its image, by "
        f"FastAPI's way {best['by FastAPI']:.2f} ms; one to store {best['pool']:.2f} ms"
    )
    goal_met = best["classify"] <= SHARE * best["by FastAPI"]
    milliseconds = {name: round(value, 3) for name, value in parts.items()}
    return Result({"ms": rows, "parts_of_classify": {"ms": milliseconds}}, headline, goal_met)


async def _rounds(app: FastAPI, rounds: int) -> list[dict[str, float]]:
    """CPU seconds of each turn, in every round."""
    parts: Parts = app.state.parts
    async with app.router.lifespan_context(app):
        await asyncio.to_thread(parts.embedder.warm.wait)
        await _send(app, app, "/v1/projects", b'{"name": "request"}', "application/json")
        photos = _photos()
        for number in range(LABELS):
            uploads = [Upload(None, next(photos)) for _ in range(SHOTS)]
            parts.uploads.add(PROJECT, iter(uploads), label=f"label {number}")
        with _nothing_embedded(parts):
            turns = _turns(app, parts, photos)
            for turn in turns.values():
                await _seconds(turn)  # what is set up lazily
            return [
                {name: await _seconds(turn) for name, turn in turns.items()} for _ in range(rounds)
            ]


def _turns(app: FastAPI, parts: Parts, photos: Iterator[bytes]) -> dict[str, Turn]:
    photo = next(photos)
    options = ClassifyOptions(5, 3, None, None)
    with parts.db.reading() as session:
        project = find_project(session, PROJECT)
    predictor = parts.classification.predictors.fitted(project)
    query = predictor.support.vectors[:1].float()

    within: Any = app.middleware_stack
    while not isinstance(within, ExceptionMiddleware):  # behind all of ours
        within = within.app

    async def route() -> None:
        await _send(within, app, CLASSIFY, photo)

    async def use_case() -> None:
        parts.classification.classify(PROJECT, iter([Upload(None, photo)]), options)

    async def look_up() -> None:
        with parts.db.reading() as session:
            find_project(session, PROJECT)

    async def predict() -> None:
        list(predictor.predict(query, options))

    answered = parts.classification.classify(PROJECT, iter([Upload(None, photo)]), options)

    async def show() -> None:
        ClassifyRead(
            encoder=answered.encoder_id,
            bridge=None,
            predictions=[show_prediction(p) for p in answered.predictions],
            rejection=None,
            failed=[],
        ).model_dump_json()

    return {
        "classify": lambda: _send(app, app, CLASSIFY, photo),
        "by FastAPI": lambda: _send(app, app, CLASSIFY, photo, is_sized=False),
        "its route": route,
        "its use case": use_case,
        "project": look_up,
        "head": predict,
        "answer": show,
        "pool": lambda: _send(app, app, POOL, next(photos)),
    }


async def _seconds(turn: Turn) -> float:
    started = time.process_time()
    for _ in range(REQUESTS):
        await turn()
    return (time.process_time() - started) / REQUESTS


async def _send(
    service: Any,
    app: FastAPI,
    path: str,
    body: bytes,
    media_type: str = "image/jpeg",
    *,
    is_sized: bool = True,
) -> None:
    """A request, as the server hands it over."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"content-type", media_type.encode()),
            (b"content-length", str(len(body)).encode())
            if is_sized
            else (b"transfer-encoding", b"chunked"),
        ],
        "state": {},
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    if service is not app:
        scope["app"] = app  # which the application would have set
    came = iter([{"type": "http.request", "body": body, "more_body": False}])
    ended = asyncio.get_running_loop().create_future()
    status = 0

    async def receive() -> Any:
        return next(came, None) or await ended

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await service(scope, receive, send)
    ended.cancel()
    if status not in (200, 201):
        raise RuntimeError(f"{path} was answered with status {status}")


def _photos() -> Iterator[bytes]:
    """JPEG files that differ, behind their end, in a number."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "olive").save(file, "JPEG")
    for number in itertools.count():
        yield file.getvalue() + number.to_bytes(8, "big")


@contextmanager
def _nothing_embedded(parts: Parts) -> Iterator[None]:
    """Let every image have the same embedding, at once."""
    with parts.db.reading() as session:
        encoder = parts.embedder.encoder(find_project(session, PROJECT).encoder_id)
    embedded = Embedded(torch.eye(encoder.embedding_dim)[0].half(), "image/jpeg", 64, 64)
    embed = parts.embedder.embed
    parts.embedder.embed = lambda version, contents, **_: [embedded] * len(contents)  # type: ignore[method-assign]
    try:
        yield
    finally:
        parts.embedder.embed = embed  # type: ignore[method-assign]


if __name__ == "__main__":
    run(measure, option("--rounds", 15, quick=3))
