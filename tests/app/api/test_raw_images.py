"""A raw image is answered by the short way as by FastAPI's."""

from dataclasses import replace

import pytest
from fastapi import Request
from pydantic.errors import PydanticSchemaGenerationError

from app.api import raw_images as module
from app.http.uploads import SPOOL_BYTES, UploadedFiles
from handful.contract.common import Schema
from tests import databases

pytestmark = pytest.mark.slow

CLASSIFY, POOL, SUPPORT = (
    f"/v1/projects/birds/{path}" for path in ("classify", "pool", "labels/level/support")
)
JPEG = {"Content-Type": "image/jpeg"}
SHORT = [
    CLASSIFY,
    f"{CLASSIFY}?top_k=1&nearest=0",
    f"{CLASSIFY}?coverage=0.9&false_rejection=0.1",
    POOL,
    f"{POOL}?metadata=camera%3D3",
    f"{POOL}?metadata=camera%3D3&metadata=day%3D1",
    f"{POOL}?metadata",
    SUPPORT,
    f"{SUPPORT}?existing=keep",
    "/v1/projects/nobody/classify",
    f"{CLASSIFY}?query_encoder=00000000-0000-0000-0000-000000000000",
]
LONG = [
    f"{CLASSIFY}?top_k=0",
    f"{CLASSIFY}?coverage=",
    f"{CLASSIFY}?top_k=1&top_k=x",
    f"{CLASSIFY}?top=1",
    f"{CLASSIFY}?project=birds",
    f"{SUPPORT}?existing=forget",
    "/v1/projects/a%00b/classify",
]

database_url = databases.each


@pytest.fixture
def short(monkeypatch):
    """The parameters of the requests that were answered by the short way."""
    calls = []
    call = module._Endpoint.call

    async def recorded(self, request, values, *rest):
        calls.append(values)
        return await call(self, request, values, *rest)

    monkeypatch.setattr(module._Endpoint, "call", recorded)
    return calls


@pytest.fixture
def by_fastapi(monkeypatch):
    """Sends an image by FastAPI's way."""

    def send(service, address, content):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_is_small_image", lambda request: False)
            return service.post(address, content=content, headers=JPEG)

    return send


def told(answer):
    """What an answer says, but for what belongs to one request."""
    own = ("x-request-id", "content-length")
    fields = {name: value for name, value in answer.headers.items() if name not in own}
    document = answer.json()
    document.pop("request_id", None)
    return answer.status_code, fields, document


@pytest.mark.parametrize("address", SHORT + LONG)
def test_both_ways_give_the_same_answer(striped, stripes, short, by_fastapi, address):
    photo = stripes("level", 50)
    expected = by_fastapi(striped, address, photo)  # stores its metadata, if it has any
    assert not short

    answer = striped.post(address, content=photo, headers=JPEG)

    assert told(answer) == told(expected)
    if answer.status_code < 300:
        assert answer.content == expected.content
    assert len(short) == (address in SHORT)


@pytest.mark.parametrize("content", [b"", b"plain text", bytes(SPOOL_BYTES + 1)])
def test_what_is_no_image_is_refused_in_the_same_words(striped, short, by_fastapi, content):
    expected = by_fastapi(striped, CLASSIFY, content)

    answer = striped.post(CLASSIFY, content=content, headers=JPEG)

    assert answer.status_code == 422
    assert told(answer) == told(expected)
    assert len(short) == (content == b"plain text")


def test_an_image_that_is_larger_than_files_may_be_is_refused(striped, short):
    intake = striped.app.state.intake
    striped.app.state.intake = intake._replace(limits=replace(intake.limits, file_bytes=10))

    answer = striped.post(CLASSIFY, content=b"x" * 11, headers=JPEG)

    assert answer.json()["type"] == "/problems/file-too-large"
    assert not short


def test_an_endpoint_that_needs_more_has_no_short_way():
    def endpoint(files: UploadedFiles, request: Request) -> Schema:
        raise NotImplementedError

    with pytest.raises(PydanticSchemaGenerationError, match="Request"):
        module._Endpoint(endpoint)
