"""Whatever a client sends, within the OpenAPI document or beside it: no answer of 500 and above."""

import random
import zlib
from contextlib import ExitStack

import hypothesis
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase

from app.main import create_app
from app.settings import Settings
from bench import fuzz
from tests.server_process import OPENAPI

EXAMPLES = 4  # drawn for each operation; `bench.fuzz` draws many
MOST = 300  # at the bounds of an operation; `bench.fuzz` sends the thousands that there are of jobs
OPERATIONS = {
    result.ok().label: result.ok()
    for result in schemathesis.openapi.from_path(OPENAPI).get_all_operations()
}


@pytest.fixture(scope="module")
def fuzzed(postgresql, tmp_path_factory):
    """Services with a project that has support, a pool and some history, on each database."""
    with ExitStack() as stack:
        clients = []
        for url in ("", postgresql()):
            settings = Settings(
                data_dir=tmp_path_factory.mktemp("fuzz"),
                database_url=url,
                encoder="conv4:8",
                device="cpu",
                runtime="pytorch",
                decode_threads=1,
            )
            service = TestClient(
                create_app(settings), base_url="http://localhost", raise_server_exceptions=False
            )
            clients.append(stack.enter_context(service))
            fuzz.prepare(clients[-1])
        yield clients


@pytest.mark.parametrize("label", OPERATIONS)
def test_nothing_makes_the_service_fail(label, fuzzed):
    def send(case, client, seed):
        request = fuzz.request_of(case, client, random.Random(seed))
        answer = client.send(request)
        assert answer.status_code < 500, f"{request} {request.content[:2000]!r}: {answer.text}"

    @hypothesis.given(case=OPERATIONS[label].as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def draw(case):
        seed = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode())
        for client in fuzzed:
            send(case, client, seed)

    cases = list(fuzz.systematic(OPERATIONS[label]))
    # Evenly over all plug-ins and options; the databases take turns, and have all in `bench.fuzz`.
    for number, case in enumerate(cases[:: -(-len(cases) // MOST)]):
        send(case, fuzzed[number % len(fuzzed)], number)
    draw()


def test_the_document_names_every_route(fuzzed):
    paths = fuzzed[0].get("/openapi.json").json()["paths"]

    assert len(paths) >= 18
    assert "/v1/projects/{project}/classify" in paths
    assert "/v1/projects/{project}/pool/rank" in paths
