"""Requests within the OpenAPI document and beside it: no answer is 500 or above.

Schemathesis goes through the bounds of every operation's parameters and body, and draws requests
besides; most of them then get NUL, half a surrogate pair, or a number that is far too large in one
of their texts and numbers. Each goes to a server on every database, mostly at something that is
there.
"""

import copy
import io
import itertools
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from PIL import Image
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.coverage._operation import iter_coverage_cases

from bench.harness import DATABASE, Options, Result, option, run
from bench.processes import Server, new_database

ARCHIVES = ("application/zip", "application/x-tar", "application/gzip")
Drawn = Any  # a case of schemathesis, generic in what its schema is
Client = Any  # of httpx, or the one of Starlette that tests use, which is alike
BIRDS = "/v1/projects/birds"
TEXTS = (
    *("\0", "a\0b", "\x1b[31m", "a\x85", "\ud800", "a\udfffb", "\u202e", "\ufffe", "a\r\n\tb"),
    *("", " ", ".", "..", "%00", "🐦" * 60, "x" * 10_000, "9" * 400, "1e999", "NaN", "null"),
)
NUMBERS = (
    *(10**400, -(10**400), 2**31, 2**63, -(2**63) - 1, 2**64, -1, 0),
    *(1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
)
MOST_SHOWN = 20  # failures in full
TIMEOUT_S = 300.0


@schemathesis.serializer(*ARCHIVES)
def _archive(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="ignore")


def measure(options: Options) -> Result:
    """Send every case to a server on each database."""
    names = [options.database] if options.database else ["sqlite", "postgresql"]
    statuses: dict[str, Counter[str]] = {name: Counter() for name in names}
    failures: list[dict[str, Any]] = []
    with ExitStack() as stack:
        clients = {name: stack.enter_context(_client(stack, name)) for name in names}

        def send(case: Drawn, seed: int) -> None:
            for name, client in clients.items():
                request = request_of(case, client, random.Random(seed))
                status = client.send(request).status_code
                statuses[name][f"{status // 100}xx"] += 1
                if status >= 500:
                    content = request.content[:500].decode("latin-1")
                    failures.append({"database": name, "status": status, "method": request.method,
                                     "url": str(request.url), "content": content})  # fmt: skip

        sent = _cases(clients, options.cases, send)
    for failure in failures[:MOST_SHOWN]:
        print(failure)
    figures = {name: dict(sorted(counts.items())) for name, counts in statuses.items()}
    headline = (
        f"{sent} requests to each of {' and '.join(names)}: {len(failures)} answers of 500 or above"
    )
    document = {"requests": {"each": sent}, "statuses": figures}
    return Result(
        {**document, "failures": {"listed": failures[:MOST_SHOWN]}}, headline, not failures
    )


def _client(stack: ExitStack, database: str) -> httpx.Client:
    """A client of a new server on a database, which all end with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    url = stack.enter_context(new_database(database, folder))
    server = Server(folder, database_url=url, encoder="conv4:8", device="cpu", runtime="pytorch")
    stack.enter_context(server)
    return httpx.Client(base_url=server.url, trust_env=False, timeout=TIMEOUT_S)


def _cases(clients: dict[str, httpx.Client], cases: int, send: Callable[[Drawn, int], None]) -> int:
    """Go through all operations, and draw alike many cases of each besides; how many were sent."""
    document = next(iter(clients.values())).get("/openapi.json").json()
    results: list[Any] = list(schemathesis.openapi.from_dict(document).get_all_operations())
    operations = [result.ok() for result in results]
    each, sent = max(1, math.ceil(cases / len(operations))), 0
    for operation in operations:
        for client in clients.values():
            prepare(client)
        for case in systematic(operation):
            sent += 1
            send(case, sent)

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=each,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def draw(case: Drawn) -> None:
            nonlocal sent
            sent += 1
            send(case, sent)

        draw()
        print(f"{operation.method.upper()} {operation.path}: {sent} so far", flush=True)
    return sent


def systematic(operation: Drawn) -> Iterator[Drawn]:
    """Cases at the bounds of an operation's parameters and body, and just beyond them."""
    cases: Iterator[Drawn] = iter_coverage_cases(
        operation=operation,
        generation_modes=list(GenerationMode),
        generate_duplicate_query_parameters=True,
        unexpected_methods=set(),
        generation_config=operation.schema.config.generation,
    )
    return cases


def prepare(client: Client) -> None:
    """See to it that there is a project with support, a pool and some history."""
    if client.post("/v1/projects", json={"name": "birds"}).status_code != 201:
        return
    for n, (colour, label) in enumerate(itertools.product(("red", "blue"), range(3))):
        buffer = io.BytesIO()
        Image.new("RGB", (9 + n, 9), colour).save(buffer, "PNG")
        path = f"labels/{colour}/support" if label else "pool"
        client.post(f"{BIRDS}/{path}", files={"files": buffer.getvalue()})
    client.post(f"{BIRDS}/jobs", json={"kind": "finetune"})
    hook = client.post(f"{BIRDS}/webhooks", json={"url": "http://nobody.invalid/"})
    if hook.status_code == 201:
        client.post(f"{BIRDS}/webhooks/{hook.json()['id']}/test")


def request_of(case: Drawn, client: Client, chance: random.Random) -> Any:
    """A case as it is sent: mostly at something that is there, with one part that is wrong."""
    path = dict(case.path_parameters or {})
    for name in list(path)[: chance.randrange(4)]:
        path[name] = _known(client, name)
    query, body = copy.deepcopy((dict(case.query or {}), case.body))
    parts = {"path": path, "query": query, "body": body}
    if leaves := list(_leaves(parts)) if chance.random() < 0.8 else []:
        holder, key = chance.choice(leaves)
        numeric = isinstance(holder[key], int | float) == (chance.random() < 0.9)
        holder[key] = chance.choice(NUMBERS if numeric else TEXTS)
    sent = case.as_transport_kwargs(base_url=str(client.base_url))
    address = case.path
    for name, value in path.items():
        address = address.replace(f"{{{name}}}", quote(_bytes(value), safe=""))
    asked = urlencode({k: _query(v) for k, v in query.items()}, doseq=True)
    content, files = sent.get("data"), sent.get("files")
    if isinstance(body, dict | list) and not files and "json" in sent:
        content = json.dumps(body).encode()
    elif "json" in sent:
        content = json.dumps(sent["json"]).encode()
    return client.build_request(
        case.method,
        f"{address}?{asked}" if asked else address,
        headers={k: v for k, v in sent["headers"].items() if _is_header(k, v)},
        content=content if isinstance(content, bytes | str) else None,
        data=content if isinstance(content, dict) else None,
        files=[(field, _part(part)) for field, part in files] if files else None,
    )


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Where texts and numbers are: what holds each, and under which key."""
    if isinstance(value, dict | list):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if isinstance(inner, str | int | float):
                yield value, key
            else:
                yield from _leaves(inner)


def _known(client: Client, parameter: str) -> str:
    """What is there by this name; empty once it has been deleted."""
    if parameter in ("project", "label"):
        return {"project": "birds", "label": "red"}[parameter]
    if parameter == "delivery":
        kind = f"webhooks/{_known(client, 'webhook')}/deliveries"
    else:
        kinds = {"image": "images", "version": "encoders", "job": "jobs", "webhook": "webhooks"}
        kind = kinds.get(parameter, "images")
    items = client.get(f"{BIRDS}/{kind}?limit=1").json().get("items")
    return items[0]["id"] if items else ""


def _bytes(value: Any) -> bytes:
    return str(value).encode(errors="surrogatepass")


def _query(value: Any) -> Any:
    return [_bytes(v) for v in value] if isinstance(value, list) else _bytes(value)


def _part(part: Any) -> tuple[Any, ...]:
    """A part of a form is bytes, whatever was drawn."""
    name, content, *kind = part if isinstance(part, tuple) else (None, part)
    return name, content if isinstance(content, bytes | str) else str(content), *kind


def _is_header(name: str, value: Any) -> bool:
    """Whether httpx sends it; it counts the bytes itself."""
    return name.lower() not in ("content-length", "transfer-encoding") and str(value).isprintable()


if __name__ == "__main__":
    run(
        measure,
        option("--cases", 1000, quick=70, help="that are drawn, for each database"),
        DATABASE,
    )
