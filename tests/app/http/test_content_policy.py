"""What pages of the service may load and run."""

import pytest

from app.http.content_policy import API_CSP, DOCS_CSP, WEB_CSP, content_policy


@pytest.mark.parametrize(
    ("path", "policy"),
    [("/", WEB_CSP), ("/web/label.js", WEB_CSP), ("/docs", DOCS_CSP), ("/v1/projects", API_CSP)],
)
def test_each_path_has_its_policy(path, policy):
    assert content_policy(path) == policy


def test_the_documentation_page_loads_nothing_from_elsewhere(service):
    page = service.get("/docs")

    assert "https://" not in page.text.replace("https://fastapi.tiangolo.com", "")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert service.get("/docs/assets/swagger-ui-bundle.js").is_success
