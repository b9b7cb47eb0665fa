"""The pages of docs/reference, written from the code: `python -m docs.generate`."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from app.exchange.formats import formats
from app.http.openapi import TAGS
from app.main import create_app
from app.problems import Problem
from app.settings import Settings
from models.acquisition.strategies import strategies
from models.augmentation.kinds import augmentations
from models.augmentation_search.searches import searches
from models.encoders.architectures import architectures
from models.finetuning.methods import methods
from models.heads.kinds import heads
from models.pretraining.methods import methods as pretexts
from models.registry import Registry

GENERATED = "<!-- Written by `python -m docs.generate`; edit the code instead. -->"

SETTINGS = """# Settings

Each setting is an environment variable, read once at the start; `handful settings` shows what is
in force. Lists are JSON."""

API = """# API

Bodies and answers are JSON unless an entry says otherwise. A running service shows this page at
`/docs`, where requests can be tried, and serves it to tools as `/openapi.json`.

- **Key.** When the service has one (`HANDFUL_API_KEY`), send `Authorization: Bearer KEY`.
- **Names.** `{project}` and `{label}` are an id or a name.
- **Lists** answer `{"items": […], "next_cursor": …}`; pass `next_cursor` as `cursor` until it is
  null.
- **Uploads** are `multipart/form-data` with one or many parts named `files`, or one raw image
  (`Content-Type: image/jpeg` …), or one zip, tar or tar.gz. A file that cannot be used fails alone
  and is listed under `failed`; when all fail, the answer is a problem.
- **Errors** are `application/problem+json`; see [Problems](#problems).
- **429 and 503** carry `Retry-After` in seconds: wait, then send the same request again.
- **Repeating safely.** A POST may carry `Idempotency-Key: RANDOM`; the same key gets the first
  answer again.
- **Editing safely.** Send the `ETag` of what you read as `If-Match`; 412 means that it has changed
  since."""


def main() -> None:
    """Write the pages into docs/reference."""
    write(Path(__file__).parent / "reference")


def write(folder: Path) -> None:
    """Write the pages into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = openapi()
    content = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
    (folder / "openapi.json").write_text(content + "\n", encoding="utf-8")
    for name, page in (("settings.md", settings_page()), ("api.md", api_page(document))):
        (folder / name).write_text("\n\n".join([GENERATED, *page]) + "\n", encoding="utf-8")


def openapi() -> dict[str, Any]:
    """The OpenAPI document, of a service that never starts; no setting changes it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder), database_url="", blob_url="", encoder="conv4:8", device="cpu"
        )
        return create_app(settings).openapi()


def settings_page() -> Iterator[str]:
    """The page of settings."""
    yield SETTINGS
    yield _table(
        ("variable", "type", "default", "what"),
        (
            (f"`HANDFUL_{name.upper()}`", _type(field), _default(field), field["description"])
            for name, field in Settings.model_json_schema()["properties"].items()
        ),
    )


def api_page(document: Mapping[str, Any]) -> Iterator[str]:
    """The page of every address, object, plug-in and problem."""
    yield API
    for section in TAGS:
        yield f"## {section.capitalize()}"
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if operation["tags"][0] == section:
                    yield from _operation(method, path, operation)
    yield "## Objects"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _object(name, schema)
    yield from _plugins()
    yield from _problems()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`"
    yield operation["description"]
    parameters = [p for p in operation.get("parameters", []) if p["in"] != "path"]
    if parameters:
        yield _table(
            ("parameter", "in", "type", "default", "what"),
            (
                (
                    f"`{p['name']}`",
                    p["in"],
                    _type(p["schema"]),
                    _default(p["schema"], required=p["required"]),
                    p.get("description", ""),
                )
                for p in parameters
            ),
        )
    if "requestBody" in operation:
        yield f"Body: {_contents(operation['requestBody']['content'])}"
    yield f"Answers: {_answers(operation['responses'])}"


def _contents(content: Mapping[str, Any]) -> str:
    if "multipart/form-data" in content:
        return "an upload (" + ", ".join(f"`{kind}`" for kind in content) + ")"
    return ", ".join(
        _type(body["schema"]) if kind == "application/json" and body["schema"] else f"`{kind}`"
        for kind, body in content.items()
    )


def _answers(responses: Mapping[str, Any]) -> str:
    good, bad = [], []
    for status, response in responses.items():
        content = response.get("content", {})
        if "application/problem+json" in content:
            bad.append(status)
        else:
            what = _contents(content) if content else HTTPStatus(int(status)).phrase.lower()
            good.append(f"{status} {what}")
    problems = f"; [problems](#problems) {', '.join(bad)}" if bad else ""
    return ", ".join(good) + problems


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {_title(name)}"
    if "description" in schema:
        yield schema["description"]
    if schema.get("properties"):
        required = schema.get("required", [])
        yield _table(
            ("field", "type", "default", "what"),
            (
                (
                    f"`{field}`",
                    _type(value),
                    _default(value, required=field in required),
                    value.get("description", ""),
                )
                for field, value in schema["properties"].items()
            ),
        )


def _plugins() -> Iterator[str]:
    yield "## Plug-ins"
    yield "What can be named in a request or a setting. Each is one file of the folder."
    kinds: tuple[tuple[str, str, Registry[Any]], ...] = (
        ("Strategies", "models/acquisition", strategies),
        ("Heads", "models/heads", heads),
        ("Encoders", "models/encoders", architectures),
        ("Ways to fine-tune", "models/finetuning", methods),
        ("Augmentations", "models/augmentation", augmentations),
        ("Searches for augmentations", "models/augmentation_search", searches),
        ("Pretraining methods", "models/pretraining", pretexts),
        ("Formats", "app/formats", formats),
    )
    for title, folder, registry in kinds:
        yield f"### {title}"
        yield f"Folder `{folder}`."
        yield _table(
            ("name", "what", "options"),
            (
                (f"`{name}`", _first_line(plugin), ", ".join(_options(plugin)) or "none")
                for name, plugin in registry.items()
            ),
        )


def _options(plugin: Any) -> Iterator[str]:
    for name, schema in TypeAdapter(plugin).json_schema().get("properties", {}).items():
        yield f"`{name}`: {_type(schema)} = {_default(schema)}"


def _problems() -> Iterator[str]:
    yield "## Problems"
    yield (
        "`type` is stable and meant for programs, `detail` for people. Some have more members, "
        "such as `position`, `failed` or `errors`. Other errors of HTTP itself, such as an address "
        "that does not exist, have the type `about:blank`."
    )
    documents = {
        kind("").document()["type"]: kind
        for kind in _subclasses(Problem)
        if kind.__module__ == Problem.__module__  # not what a test defines
    }
    yield _table(
        ("type", "status", "title"),
        (
            (f"`{name}`", str(int(kind.status)), _first_line(kind))
            for name, kind in sorted(documents.items())
        ),
    )


def _subclasses(kind: type[Problem]) -> Iterator[type[Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: str | None) -> str:
    return " ".join((value or "").split()).replace("|", "\\|")


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = _title(schema["$ref"].rpartition("/")[2])
        return f"[{name}](#{name.lower()})"
    if variants := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(variant) for variant in variants)
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        if pair := schema.get("prefixItems"):
            return f"[{', '.join(map(_type, pair))}]"
        return f"list of {_type(schema['items'])}"
    kind: str = schema.get("format") or schema.get("type", "anything")
    return kind + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    return "".join(f", {words[key]} {schema[key]:g}" for key in words if key in schema)


def _default(schema: Mapping[str, Any], *, required: bool = False) -> str:
    if required:
        return "required"
    if "default" not in schema:
        return ""
    value = schema["default"]
    return "empty" if value == "" else f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _title(name: str) -> str:
    """A schema's name; `Page_ImageRead_` is a page of `ImageRead`."""
    return "PageOf" + name.removeprefix("Page_").rstrip("_") if name.startswith("Page_") else name


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    main()
