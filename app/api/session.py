"""Browsers: the API key once, then a cookie that no script can read."""

import time

from fastapi import Request, Response

from app.access.api_key import ApiKey
from app.access.sessions import COOKIE, LIFETIME_S, from_cookies, is_valid, issue
from app.api import resource_router
from app.api.parts import AllParts
from app.http.openapi import problem_responses
from app.problems import Unauthorized
from handful.contract.session import SessionRead, SessionWrite

router = resource_router("/v1/session", tags=["service"])


@router.get("")
def read_session(request: Request, parts: AllParts) -> SessionRead:
    """Whether this browser needs to send the API key."""
    key = ApiKey.of(parts.settings)
    cookie = from_cookies(request.headers.get("cookie", ""))
    valid = bool(key) and is_valid(key.secret, cookie, time.time())
    return SessionRead(needed=bool(key), open=valid or not key)


@router.post("", responses=problem_responses(401, 422))
def open_session(
    body: SessionWrite, request: Request, response: Response, parts: AllParts
) -> SessionRead:
    """Exchange the API key for a cookie; for the labeling page."""
    key = ApiKey.of(parts.settings)
    if key and not key.matches(body.api_key.get_secret_value().strip().encode()):
        raise Unauthorized("this is not the API key of the service")
    if key:
        response.set_cookie(
            COOKIE,
            issue(key.secret, time.time()),
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
