"""What the OpenAPI document says beyond what FastAPI can see."""

from typing import Any

from fastapi import FastAPI

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
    "label studio",
    "webhooks",
    "service",
)  # as /docs shows them


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
        return document

    app.openapi = openapi  # type: ignore[method-assign]
