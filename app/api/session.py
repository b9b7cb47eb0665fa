"""Browsers: the API key once, then a cookie that no script can read."""

import hmac
import time

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, SecretStr

from app.api import problems
from app.problems import Unauthorized
from app.schemas import Schema
from app.sessions import COOKIE, LIFETIME_S, is_valid, issue

router = APIRouter(prefix="/v1/session", tags=["service"])


class SessionWrite(Schema):
    """Who wants in."""

    api_key: SecretStr = Field(max_length=1000)


class SessionRead(BaseModel):
    """Whether a browser may go on."""

    needed: bool = Field(description="Whether the service asks for an API key at all.")
    open: bool = Field(description="Whether this browser is let in.")


@router.get("")
def read_session(request: Request) -> SessionRead:
    """Whether this browser needs to send the API key."""
    key = request.app.state.settings.api_key.get_secret_value()
    valid = bool(key) and is_valid(key, request.cookies.get(COOKIE, ""), time.time())
    return SessionRead(needed=bool(key), open=valid or not key)


@router.post("", responses=problems(401, 422))
def open_session(body: SessionWrite, request: Request, response: Response) -> SessionRead:
    """Exchange the API key for a cookie; for the labeling page."""
    key = request.app.state.settings.api_key.get_secret_value()
    given = body.api_key.get_secret_value().strip()
    if key and not hmac.compare_digest(given.encode(), key.encode()):
        raise Unauthorized("this is not the API key of the service")
    if key:
        response.set_cookie(
            COOKIE,
            issue(key, time.time()),
            max_age=LIFETIME_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return SessionRead(needed=bool(key), open=True)


@router.delete("", status_code=204)
def close_session(response: Response) -> None:
    """Forget the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
