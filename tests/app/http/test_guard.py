"""Who may come in: the key, the hosts that are served, pages of other sites."""

import base64

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette import requests

from app.access.sessions import COOKIE
from app.http import guard
from app.http.guard import Authentication
from app.main import create_app
from app.problems import MalformedRequest


@pytest.fixture
def locked(settings):
    """A service that has a key."""
    secret = settings.model_copy(update={"api_key": SecretStr("sesame")})
    with TestClient(create_app(secret), base_url="http://handful.example") as client:
        yield client


@pytest.mark.parametrize("value", [None, "sesame", "Bearer wrong", "Bearer ", "Basic sesame"])
def test_without_the_key_nobody_gets_in(locked, value):
    headers = {"Authorization": value} if value else {}

    for path in ("/v1/projects", "/metrics", "/v1/version", "/nowhere"):
        answer = locked.get(path, headers=headers)

        assert answer.status_code == 401
        assert "Bearer KEY" in answer.json()["detail"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_with_the_key_all_is_open(locked):
    assert locked.get("/v1/projects", headers={"Authorization": "Bearer sesame"}).is_success


@pytest.mark.parametrize(
    "path", ["/livez", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"]
)
def test_health_and_documentation_need_no_key(locked, path):
    assert locked.get(path).is_success


def test_a_name_that_was_pointed_here_is_not_served(service):
    answer = service.get("/v1/projects", headers={"Host": "evil.example"})

    assert answer.status_code == 403
    assert "HANDFUL_ALLOWED_HOSTS" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_the_names_of_this_machine_are_served(service, host):
    assert service.get("/v1/projects", headers={"Host": host}).is_success


def test_pages_of_other_sites_may_not_change_anything(service):
    foreign = {"Origin": "https://evil.example"}

    assert service.post("/v1/projects", json={"name": "p"}, headers=foreign).status_code == 403
    ours = {"Origin": "http://localhost"}
    assert service.post("/v1/projects", json={"name": "p"}, headers=ours).status_code == 201


@pytest.mark.parametrize(
    "host", ["[", "http://[", "[1.2.3]", "[::1]:99999", "a b", "a/b", "a@b", "a,b", "\xe4", "a:b"]
)
def test_a_host_that_is_none_is_refused(locked, host):
    for path in ("/v1/projects", "/nowhere", "/livez", "/v1/session"):
        headers = {"Host": host.encode("latin-1"), "Authorization": "Bearer sesame"}
        answer = locked.post(path, json={"api_key": "sesame"}, headers=headers)

        assert answer.status_code == 400, answer.text
        assert answer.json()["type"] == "/problems/malformed-request"


async def locked_out(*_: object) -> None:
    raise AssertionError("nobody comes here")


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"]])
def test_a_request_has_one_host(settings, hosts):
    guard = Authentication(locked_out, settings, CollectorRegistry())
    headers = [(b"host", host.encode()) for host in hosts]
    scope = {"type": "http", "http_version": "1.1", "path": "/livez", "headers": headers}

    problem = guard.refusal(scope | {"method": "GET"})

    assert isinstance(problem, MalformedRequest)
    assert guard.refusal(scope | {"method": "GET", "headers": [(b"host", b"a")]}) is None


@pytest.mark.parametrize("origin", ["http://[", "http://[1.2.3]", "[", "null", "", "\xff", "a:b:c"])
def test_an_origin_that_is_malformed_is_that_of_another_site(locked, origin):
    headers = {"Origin": origin.encode("latin-1"), "Authorization": "Bearer sesame"}

    assert locked.post("/v1/projects", json={"name": "p"}, headers=headers).status_code == 403
    assert locked.get("/v1/projects", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": f"{COOKIE}=\xb2.\xff"},
        {"Cookie": f"{COOKIE}"},
        {"Cookie": f'{COOKIE}="' + "\\" * 60_000 + '"'},
        {"Cookie": ";=;" * 20_000 + "\xe9"},
        {"Authorization": "\xff \xff"},
        {"Authorization": "Basic \xff"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff" * 99).decode()},
        {"Authorization": "Bearer " + "\xe9" * 60_000},
    ],
    ids=range(8),
)
def test_credentials_that_are_malformed_are_none(locked, headers, monkeypatch):
    parse = requests.cookie_parser
    # Python 3.11.7 takes seconds for the backslashes.
    monkeypatch.setattr(
        requests, "cookie_parser", lambda text: parse(text) if len(text) < 99 else 1 / 0
    )
    raw = {name: value.encode("latin-1") for name, value in headers.items()}

    for path in ("/v1/projects", "/label-studio/birds/health"):
        assert locked.get(path, headers=raw).status_code == 401
    assert locked.get("/v1/session", headers=raw).json() == {"needed": True, "open": False}


def test_a_cookie_is_found_among_others(locked):
    opened = locked.post("/v1/session", json={"api_key": "sesame"})
    cookie = opened.headers["set-cookie"].partition(";")[0]
    locked.cookies.clear()

    assert locked.get("/v1/projects", headers={"Cookie": f"a=b; {cookie};c"}).is_success


def test_wrong_keys_are_slowed_and_counted_and_the_right_one_is_not(locked, monkeypatch):
    delays = []

    async def note(seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(guard, "sleep", note)

    for _ in range(8):
        assert locked.get("/v1/projects", headers={"Authorization": "Bearer no"}).status_code == 401
        assert locked.post("/v1/session", json={"api_key": "no"}).status_code == 401
    slowed = list(delays)
    assert locked.get("/v1/projects").status_code == 401  # which guesses nothing
    right = {"Authorization": "Bearer sesame"}
    assert locked.get("/v1/projects", headers=right).is_success
    assert locked.post("/v1/session", json={"api_key": "sesame"}).is_success
    metrics = locked.get("/metrics", headers=right).text

    assert len(slowed) == 16
    assert slowed[:5] == [0.0] * 5
    assert slowed[5:] == sorted(slowed[5:])
    assert slowed[-1] == 10.0
    assert delays == slowed
    assert 'handful_wrong_keys_total{where="header"} 8.0' in metrics
    assert 'handful_wrong_keys_total{where="session"} 8.0' in metrics
