"""What the OpenAPI document says beyond what FastAPI can see."""

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from handful.contract.common import ProblemRead

DESCRIPTION = """A handful of labels is enough: register a few support images per class, classify
queries by nearest centroid, and ask which unlabeled images are most worth labeling."""
TAGS = (
    "projects",
    "labels",
    "images",
    "pool",
    "classify",
    "report",
    "exchange",
    "jobs",
    "augmentations",
    "pretraining",
    "encoders",
    "heads",
    "label studio",
    "webhooks",
    "service",
)  # as /docs shows them
FILE = {"schema": {"type": "string", "format": "binary"}}


def operation_id(route: APIRoute) -> str:
    """`resource_verb`, from which generators of clients make names: `projects_create`.

    The resource is the module of the route, the verb what the route's function is called without
    it. Routes of the web page and of the documentation have none of their own.
    """
    resource = route.endpoint.__module__.rpartition(".")[2]
    singular = resource.removesuffix("s")
    verb = re.sub(rf"_?{singular}s?(?=_|$)", "", route.name).strip("_")
    return f"{resource}_{verb or route.name}"


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route's problems look in the OpenAPI document."""
    return {
        status: {
            "description": "Problem",
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemRead"}}
            },
        }
        for status in statuses
    }


def file_responses(media_type: str, *problems: int) -> dict[int | str, dict[str, Any]]:
    """How a file that a route answers with, and its problems look in the OpenAPI document."""
    return {200: {"content": {media_type: FILE}}, **problem_responses(*problems)}


def complete_openapi(app: FastAPI) -> None:
    """Complete the OpenAPI document with what FastAPI cannot see."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        components = document["components"]
        components["schemas"].setdefault("ProblemRead", ProblemRead.model_json_schema())
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    # FastAPI's own description of a 422 is not how we answer.
                    content = response.get("content", {})
                    schema = content.get("application/json", {}).get("schema", {})
                    if schema.get("$ref", "").endswith("/HTTPValidationError"):
                        response["content"] = {
                            "application/problem+json": {
                                "schema": {"$ref": "#/components/schemas/ProblemRead"}
                            }
                        }
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        return _with_names_of_pages(document)

    app.openapi = openapi  # type: ignore[method-assign]


def _with_names_of_pages(document: dict[str, Any]) -> dict[str, Any]:
    """The document with `ProjectPage` for what pydantic calls `Page_ProjectRead_`."""
    names = {
        name: re.sub(r"^Page_(\w+?)(?:Read)?_$", r"\1Page", name)
        for name in document["components"]["schemas"]
    }
    text = json.dumps(document)
    for name, readable in names.items():
        text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{readable}"')
    renamed: dict[str, Any] = json.loads(text)
    schemas = renamed["components"]["schemas"]
    renamed["components"]["schemas"] = {
        names[name]: {**schema, "title": names[name]} if names[name] != name else schema
        for name, schema in schemas.items()
    }
    return renamed
