"""What happens to every request: an id, a log line, an answer to errors that nobody caught."""

import io
import json
import logging
import uuid


def test_every_answer_has_a_request_id_and_may_not_be_sniffed(service):
    for path in ("/livez", "/v1/projects", "/v1/projects/none", "/nowhere"):
        headers = service.get(path).headers

        assert uuid.UUID(headers["X-Request-ID"]).version == 7
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_requests_are_logged_as_json_with_their_id(service, monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(logging.getLogger().handlers[0], "stream", written)

    request_id = service.get("/v1/projects/none").headers["X-Request-ID"]

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == request_id]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/projects/none", 404)


def test_an_error_of_ours_is_a_problem_with_the_id_to_report(service, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(type(service.app.state.parts.projects), "page", fail)

    answer = service.get("/v1/projects")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert "secret" not in answer.text
