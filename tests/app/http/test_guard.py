"""Who may come in: the key, the hosts that are served, pages of other sites."""

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.http import guard
from app.main import create_app


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
