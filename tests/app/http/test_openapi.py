"""The OpenAPI document, as generators of clients read it."""

import re

import pytest

from docs import generate
from handful.contract.common import Schema

# What is made of these is no text in SQL, or is checked when it is taken apart.
LOOSE = {"cursor", "metadata", "if-match"}


@pytest.fixture(scope="module")
def document() -> dict:
    return generate.openapi()


@pytest.fixture(scope="module")
def operations(document) -> dict[str, tuple[str, dict]]:
    """Every operation by its id, with its path."""
    listed = [
        (operation["operationId"], path, operation)
        for path, methods in document["paths"].items()
        for operation in methods.values()
    ]
    by_id = {name: (path, operation) for name, path, operation in listed}
    assert len(by_id) == len(listed)
    return by_id


def test_an_operation_is_named_by_its_resource_and_a_verb(operations):
    assert {"projects_create", "images_list", "pool_rank", "jobs_start", "report_read"} <= set(
        operations
    )
    for name, (path, _) in operations.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name), name
        assert "v1" not in name, path


def test_a_schema_is_named_without_its_module_or_how_it_is_used(document):
    names = document["components"]["schemas"].keys()

    assert {"ProjectRead", "ProjectPage", "VersionRead", "ServiceRead", "Event"} <= names
    assert [name for name in names if not re.fullmatch(r"[A-Z][A-Za-z0-9]+", name)] == []


def test_every_reference_leads_to_a_schema(document):
    references = re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document))

    assert references
    assert set(references) <= document["components"]["schemas"].keys()


def test_a_problem_is_what_goes_wrong(operations):
    _, operation = operations["projects_create"]

    content = operation["responses"]["422"]["content"]
    assert content["application/problem+json"]["schema"]["$ref"].endswith("/ProblemRead")
    assert "application/json" not in content


def test_every_text_that_a_client_may_choose_says_what_it_must_look_like(document):
    """A bare `str` would let through what not every database keeps: write `Text`."""
    requests = {
        schema.__name__: schema.model_json_schema(mode="validation")["properties"]
        for schema in Schema.__subclasses__()
    }
    requests |= {
        f"{method} {path}": {p["name"]: p["schema"] for p in operation.get("parameters", ())}
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }

    loose = {
        (request, name)
        for request, fields in requests.items()
        for name, field in fields.items()
        for kind in (field, field.get("items", {}), *field.get("anyOf", ()))
        if kind.get("type") == "string" and not kind.keys() & {"pattern", "enum", "const", "format"}
    }
    assert {name for _, name in loose} <= LOOSE
