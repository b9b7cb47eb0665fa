"""A project of a running service and one of Label Studio, linked to each other."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import httpx

from app.integrations.label_studio.host import Host
from handful.client import Handful
from handful.retries import RequestRefused

FILES_PER_IMPORT = 50
SAMPLING = "Uncertainty sampling"  # which hands out the lowest score first
TITLE = "Handful"
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/gif": ".gif"}


class CannotLink(RuntimeError):
    """The two cannot be linked; the message says why."""


class Linked(NamedTuple):
    """What is linked now."""

    studio_project: int
    imported: int  # images that are tasks since
    pushed: int  # suggestions
    trouble: str  # why suggestions are not pushed; empty when they are


def connect(
    client: Handful,
    studio: Host,
    project: str,
    *,
    studio_project: int | None,
    address: str,
    key: str,
    advance: Callable[[int, int], None],
) -> Linked:
    """Have Label Studio ask this service for suggestions and tell it of labels.

    Everything that is there already is left as it is, so that it may be repeated.

    Args:
        studio_project: its id in Label Studio; None: the one of the same name, made if it is new.
        address: of this service, as Label Studio sees it.
        key: the API key, for Label Studio; may be empty.
        advance: told how many images of how many are tasks now.

    Raises:
        CannotLink: Label Studio refuses, or the project has no labels to choose from.
    """
    found = _studio_project(client, studio, project, studio_project)
    number = int(found["id"])
    backend = f"{address.rstrip('/')}/label-studio/{quote(project, safe='')}"
    _add_backend(studio, number, backend, key)
    _add_webhook(studio, number, f"{backend}/webhook", key)
    imported = _import(client, studio, project, number, advance)
    try:
        done = client.post(f"/label-studio/{quote(project, safe='')}/sync", {"project": number})
    except RequestRefused as error:
        return Linked(number, imported, 0, str(error))
    return Linked(number, imported, int(done["tasks"]), "")


def _studio_project(
    client: Handful, studio: Host, project: str, number: int | None
) -> dict[str, Any]:
    if number is not None:
        chosen: dict[str, Any] = studio.call("GET", f"/api/projects/{number}")
        return chosen
    for one in studio.pages("/api/projects"):
        if one["title"] == project:
            same: dict[str, Any] = one
            return same
    labels = [label.name for label in client.all(client.labels, project)]
    if not labels:
        raise CannotLink(
            f"project {project!r} has no labels to choose from: make some, "
            "or name a project of Label Studio with --studio-project"
        )
    body = {"title": project, "label_config": interface(labels), "sampling": SAMPLING}
    made: dict[str, Any] = studio.call("POST", "/api/projects", json=body)
    return made


def interface(labels: Sequence[str]) -> str:
    """A labeling interface: an image, and a choice of labels."""
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="label" toName="image" choice="single">\n{choices}  </Choices>\n</View>'
    )


def _add_backend(studio: Host, number: int, url: str, key: str) -> None:
    known = studio.call("GET", "/api/ml", params={"project": number})
    if any(one["url"].rstrip("/") == url for one in known):
        return
    body = {"project": number, "url": url, "title": TITLE, "is_interactive": False}
    if key:
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": TITLE, "basic_auth_pass": key}
    studio.call("POST", "/api/ml", json=body)


def _add_webhook(studio: Host, number: int, url: str, key: str) -> None:
    """Label Studio makes one for a backend, but without the key."""
    body = {
        "project": number,
        "url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "send_payload": True,
        "send_for_all_actions": True,
        "is_active": True,
    }
    known = studio.call("GET", "/api/webhooks/", params={"project": number})
    for one in known:
        if one["url"] == url:
            studio.call("PATCH", f"/api/webhooks/{one['id']}/", json=body)
            return
    studio.call("POST", "/api/webhooks/", json=body)


def _import(
    client: Handful,
    studio: Host,
    project: str,
    number: int,
    advance: Callable[[int, int], None],
) -> int:
    """Make a task of each image of the pool that is none yet; how many."""
    known = "".join(str(t["data"]) for t in studio.pages("/api/tasks", project=number))
    images = list(client.all(client.images, project, state="pool"))
    new = iter([image for image in images if str(image.id) not in known])
    done = 0
    while some := list(islice(new, FILES_PER_IMPORT)):
        files = [
            (
                str(image.id),
                (
                    str(image.id) + SUFFIXES.get(image.media_type, ".img"),
                    client.image_content(project, image.id),
                    image.media_type,
                ),
            )
            for image in some
        ]
        studio.call("POST", f"/api/projects/{number}/import", files=files)
        done += len(some)
        advance(done, len(images))
    return done


def studio(url: str, token: str) -> Host:
    """Label Studio at an address.

    Raises:
        CannotLink: it is no address.
    """
    if httpx.URL(url).scheme not in {"http", "https"}:
        raise CannotLink(f"{url!r} is not an address such as http://localhost:8080")
    return Host(url, token, 0)
