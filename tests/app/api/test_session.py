"""Browsers that show the key once."""

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app

OURS = {"Origin": "http://testserver"}


@pytest.fixture
def locked(settings):
    """A browser before a service with a key."""
    secret = settings.model_copy(update={"api_key": SecretStr("sesame")})
    with TestClient(create_app(secret)) as client:
        yield client


def enter(client):
    return client.post("/v1/session", json={"api_key": "sesame"}, headers=OURS)


def test_the_key_is_exchanged_for_a_cookie_that_scripts_cannot_read(locked):
    assert locked.get("/v1/session").json() == {"needed": True, "open": False}
    assert locked.get("/v1/projects").status_code == 401

    cookie = enter(locked).headers["set-cookie"]

    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "sesame" not in cookie
    assert locked.get("/v1/session").json() == {"needed": True, "open": True}
    assert locked.get("/v1/projects").status_code == 200


def test_a_wrong_key_gets_no_cookie(locked):
    answer = locked.post("/v1/session", json={"api_key": "open"}, headers=OURS)

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "open" not in answer.json()["detail"]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_with_the_cookie_only_our_page_may_change_anything(locked, headers):
    enter(locked)

    answer = locked.post("/v1/projects", json={"name": "p"}, headers=headers)

    assert answer.status_code in {401, 403}
    assert locked.get("/v1/projects").json()["items"] == []
    assert locked.post("/v1/projects", json={"name": "p"}, headers=OURS).status_code == 201


def test_a_session_can_be_closed(locked):
    enter(locked)

    assert locked.delete("/v1/session", headers=OURS).status_code == 204

    assert locked.get("/v1/projects").status_code == 401


def test_without_a_key_none_is_needed(service):
    assert service.get("/v1/session").json() == {"needed": False, "open": True}
    answer = service.post("/v1/session", json={"api_key": "anything"})
    assert answer.json() == {"needed": False, "open": True}
    assert "set-cookie" not in answer.headers


def test_the_page_and_its_files_need_no_key_and_load_nothing_from_elsewhere(locked):
    page, script = locked.get("/"), locked.get("/web/app.js")

    assert page.status_code == script.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert locked.get("/web/%2e%2e/__init__.py").status_code == 404
