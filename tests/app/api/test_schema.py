"""Whatever a client sends, within the OpenAPI document or beside it: no answer of 500 and above."""

import io
import itertools
import zlib

import hypothesis
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase
from PIL import Image

from app.main import create_app
from app.settings import Settings
from docs import generate

EXAMPLES = 10  # drawn for each operation, besides those that cover its schema
ARCHIVES = ("application/zip", "application/x-tar", "application/gzip")
API = schemathesis.openapi.from_dict(generate.openapi())


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """A service with a project that has support, a pool and some history."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("fuzz"),
        encoder="conv4:8",
        device="cpu",
        runtime="pytorch",
        decode_threads=1,
    )
    with TestClient(
        create_app(settings), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        client.post("/v1/projects", json={"name": "birds"})
        for n, (colour, label) in enumerate(itertools.product(("red", "blue"), range(3))):
            buffer = io.BytesIO()
            Image.new("RGB", (9 + n, 9), colour).save(buffer, "PNG")
            path = f"labels/{colour}/support" if label else "pool"
            client.post(f"/v1/projects/birds/{path}", files={"files": buffer.getvalue()})
        client.post("/v1/projects/birds/jobs", json={"kind": "finetune"})
        hook = client.post("/v1/projects/birds/webhooks", json={"url": "http://nobody.invalid/"})
        client.post(f"/v1/projects/birds/webhooks/{hook.json()['id']}/test")
        yield client


@schemathesis.serializer(*ARCHIVES)
def _archive(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="ignore")


def _known(client, parameter):
    """What is there by this name; empty once it has been deleted."""
    if parameter in ("project", "label"):
        return {"project": "birds", "label": "red"}[parameter]
    if parameter == "delivery":
        kind = f"webhooks/{_known(client, 'webhook')}/deliveries"
    else:
        kinds = {"image": "images", "version": "encoders", "job": "jobs", "webhook": "webhooks"}
        kind = kinds[parameter]
    found = client.get(f"/v1/projects/birds/{kind}?limit=1").json().get("items")
    return found[0]["id"] if found else ""


def _part(part):
    name, content, *kind = part if isinstance(part, tuple) else (None, part)
    return name, content if isinstance(content, bytes | str) else str(content), *kind


@API.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_makes_the_service_fail(case, fuzzed):
    # Mostly at something that is there, so that more than the lookup is tried.
    if (chance := zlib.crc32(repr(case.query).encode()) % 4) and case.path_parameters:
        for name in list(case.path_parameters)[:chance]:
            case.path_parameters[name] = _known(fuzzed, name)
    request = case.as_transport_kwargs(base_url="http://localhost")
    request.pop("cookies", None)  # the service has none, and httpx warns of them
    if isinstance(request.get("data"), bytes | str):
        request["content"] = request.pop("data")
    if isinstance(request.get("files"), list):  # a part of a form is bytes, whatever was drawn
        request["files"] = [(field, _part(part)) for field, part in request["files"]]

    answer = fuzzed.request(**request)

    assert answer.status_code < 500, f"{request}: {answer.text}"


def test_the_document_names_every_route(fuzzed):
    paths = fuzzed.get("/openapi.json").json()["paths"]

    assert len(paths) >= 18
    assert "/v1/projects/{project}/classify" in paths
    assert "/v1/projects/{project}/pool/rank" in paths
