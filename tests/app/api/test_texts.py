"""No database is sent a text that only some of them keep."""

import json
from urllib.parse import quote

import pytest
from sqlalchemy.exc import StatementError
from uuid_utils.compat import uuid7

from app.http.errors import as_problem
from tests import databases
from tests.uploads import upload

database_url = databases.each
POOL = "/v1/projects/birds/pool"
IMAGE = "/v1/projects/birds/images/{image}"
# Where a client may write a text: method, address and body, with the text as TEXT.
TEXTS = [
    ("POST", "/v1/projects", {"name": "TEXT"}),
    ("POST", "/v1/projects", {"name": "new", "description": "TEXT"}),
    ("PATCH", "/v1/projects/birds", {"description": "TEXT"}),
    ("GET", "/v1/projects/TEXT", None),
    ("DELETE", "/v1/projects/TEXT", None),
    ("POST", "/v1/projects/TEXT/pool/rank", {}),
    ("GET", "/label-studio/TEXT/health", None),
    ("POST", "/v1/projects/birds/labels", {"name": "TEXT"}),
    ("GET", "/v1/projects/birds/labels/TEXT", None),
    ("PATCH", "/v1/projects/birds/labels/TEXT", {"name": "blue"}),
    ("GET", "/v1/projects/birds/images?label=TEXT", None),
    ("GET", "/v1/projects/birds/images?filename=TEXT", None),
    ("GET", "/v1/projects/birds/images?metadata=camera=TEXT", None),
    ("PUT", f"{IMAGE}/label", {"label": "TEXT"}),
    ("PUT", f"{IMAGE}/label", {"label": "red", "annotator": "TEXT"}),
    ("PUT", f"{IMAGE}/label", {"label": "red", "source": "TEXT"}),
    ("PUT", f"{IMAGE}/metadata", {"metadata": {"camera": "TEXT"}}),
    ("DELETE", f"{IMAGE}/label?annotator=TEXT", None),
    ("POST", f"{IMAGE}/label/undo?annotator=TEXT", None),
    (
        "POST",
        "/v1/projects/birds/annotations",
        {"annotations": [{"image": "IMAGE", "label": "TEXT"}]},
    ),
    (
        "POST",
        "/v1/projects/birds/annotations",
        {"annotations": [{"image": "IMAGE", "label": "red", "annotator": "TEXT"}]},
    ),
    (
        "POST",
        "/v1/projects/birds/annotations",
        {"annotations": [{"image": "IMAGE", "label": "red", "source": "TEXT"}]},
    ),
    ("POST", "/v1/projects/birds/evaluate", {"labels": ["TEXT", "red"]}),
    ("POST", f"{POOL}/next", {"annotator": "TEXT"}),
    ("POST", f"{POOL}/rank", {"where": {"label": "TEXT"}}),
    ("POST", f"{POOL}/rank", {"where": {"filename": "TEXT"}}),
    ("POST", f"{POOL}/skip", {"annotator": "TEXT", "images": ["IMAGE"]}),
    ("POST", "/v1/projects/birds/webhooks", {"url": "TEXT"}),
]
CONTROLS = ["a\0b", "\0", "a\x1bb", "a\x85b"]
HALF = "a\ud800b"  # which no address can hold


@pytest.fixture
def image(birds, png) -> str:
    """Id of an image in the pool of a project that has a label."""
    birds.post("/v1/projects/birds/labels", json={"name": "red"})
    return upload(birds, "/pool", png("red")).json()["images"][0]["id"]


def test_texts_with_control_characters_or_half_a_pair_are_refused(birds, image):
    headers = {"Content-Type": "application/json"}
    statuses = {}

    for text in (*CONTROLS, HALF):
        for method, path, body in TEXTS:
            if text == HALF and "TEXT" in path:
                continue
            address = path.format(image=image).replace("TEXT", quote(text, errors="replace"))
            content = json.dumps(body).replace("IMAGE", image).replace('"TEXT"', json.dumps(text))
            answer = birds.request(
                method, address, content=None if body is None else content, headers=headers
            )
            statuses[text, method, path, str(body)] = answer.status_code

    assert {request: status for request, status in statuses.items() if status != 422} == {}


def test_what_passes_by_the_api_is_refused_where_it_would_be_stored(birds):
    annotations = birds.app.state.parts.annotations

    with pytest.raises(StatementError) as raised:
        annotations.history("a\0b", uuid7(), None, 1)

    assert as_problem(raised.value).status == 422


def test_line_ends_and_any_script_are_kept(birds):
    described = "first\r\n\tsecond \u00e9 \u0436 \u6f22 \U0001f426"

    answer = birds.patch("/v1/projects/birds", json={"description": described})

    assert answer.json()["description"] == described
