"""Errors to answers: every error as RFC 9457 problem details."""

import http
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.problems import (
    BodyTooLarge,
    InternalError,
    InvalidRequest,
    Problem,
    RequestTooSlow,
    Unauthorized,
)
from app.sql.outages import from_database
from handful.contract.common import TEXT_PATTERN

MEDIA_TYPE = "application/problem+json"


def as_problem(error: BaseException) -> Problem:
    """The problem to answer with when an error reached the outermost layer."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return InvalidRequest(
            f"{error.object[:80]!r} is no Unicode text: half of a pair is missing"
        )
    known = from_database(error) if isinstance(error, SQLAlchemyError) else None
    return known or InternalError("an unexpected error; the log has its cause")


def respond(problem: Problem, *, close: bool = False) -> JSONResponse:
    """Render one problem document.

    Args:
        close: end the connection, so that the rest of the body is not read to be thrown away.
    """
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    if close or isinstance(problem, BodyTooLarge | RequestTooSlow):
        headers["Connection"] = "close"
    if isinstance(problem, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        jsonable_encoder(problem.document()),
        status_code=problem.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Turn every error into a problem document."""

    @app.exception_handler(Problem)
    def on_problem(_: Request, problem: Problem) -> JSONResponse:
        return respond(problem)

    @app.exception_handler(RequestValidationError)
    def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"pointer": "/" + "/".join(map(str, e["loc"])), "detail": _sentence(e)}
            for e in error.errors()
        ]
        named = "; ".join(f"{e['pointer']}: {e['detail']}" for e in errors[:3])
        return respond(InvalidRequest(named, errors=errors))

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        detail = {
            404: f"there is nothing at {path}; /docs lists every address",
            405: f"{request.method} does not work on {path}; /docs lists what does",
        }.get(error.status_code, str(error.detail))
        return JSONResponse(
            {
                "type": "about:blank",
                "title": http.HTTPStatus(error.status_code).phrase,
                "status": error.status_code,
                "detail": detail,
            },
            status_code=error.status_code,
            headers=dict(error.headers or {}),
            media_type=MEDIA_TYPE,
        )

    @app.exception_handler(SQLAlchemyError)
    def on_database(_: Request, error: SQLAlchemyError) -> JSONResponse:
        problem = from_database(error)
        if problem is None:
            raise error
        return respond(problem)


def _sentence(error: Any) -> str:
    """What is wrong with one value, and what came."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error.get("ctx", {}).get("pattern") == TEXT_PATTERN:
        message = "text has no control characters but tabs and line ends"
    if error["type"] == "string_unicode":
        message = "this is no Unicode text: half of a pair is missing"
    given = error.get("input")
    if isinstance(given, str | int | float | bool) and error["type"] not in {"extra_forbidden"}:
        shown = repr(given) if len(repr(given)) <= 80 else repr(given)[:77] + "..."
        return f"{message}, got {shown}"
    return message
