"""Every call of the API that programs need, as data: what to send, and how to read the answer.

`handful.client` makes methods of them, for programs that wait and for those that do not.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from pydantic import TypeAdapter

from handful.contract.classify import ClassifyRead
from handful.contract.common import Page
from handful.contract.encoders import WEIGHTS_TYPE, PromotionRead, VersionRead
from handful.contract.evaluate import EvaluationRead
from handful.contract.exchange import ImportRead
from handful.contract.heads import LearnedHeadRead
from handful.contract.images import AnnotationRead, AppliedRead, ImageRead, SimilarRead
from handful.contract.jobs import EventsRead, JobRead
from handful.contract.labels import LabelRead, SupportAdded
from handful.contract.pool import NextRead, PoolAdded, RankRead, SkipRead
from handful.contract.projects import ProjectRead
from handful.contract.report import ReportRead
from handful.contract.webhooks import DeliveryRead, Event, WebhookCreated, WebhookRead

Answer = TypeVar("Answer")
File = Path | str | bytes | tuple[str, bytes]  # a path, or content with or without a name
Plugin = str | Mapping[str, Any]  # a name, or {"name": ..., "options": {...}}
State = Literal["support", "pool"]
Existing = Literal["relabel", "keep"]
Metadata = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Answer]):
    """A request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], Answer]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None  # JSON
    files: Sequence[File] | None = None
    content: bytes | None = None
    media_type: str | None = None  # of `content`

    def arguments(self) -> dict[str, Any]:
        """Of a request of httpx; files are read now."""
        arguments: dict[str, Any] = {"params": _sendable(self.params)}
        if self.body is not None:
            arguments["json"] = self.body
        if self.files is not None:
            arguments["files"] = [("files", _part(n, file)) for n, file in enumerate(self.files)]
        if self.content is not None:
            arguments["content"] = self.content
        if self.media_type is not None:
            arguments["headers"] = {"Content-Type": self.media_type}
        return arguments


def project_path(project: str | UUID, *below: object) -> str:
    """The path of a project, or of something below it."""
    parts = (quote(str(part), safe="") for part in (project, *below))
    return "/".join(["/v1/projects", *parts])


def create_project(name: str, *, description: str = "", head: Plugin = "auto") -> Call[ProjectRead]:
    """Make a project; 409 when the name is taken."""
    body = {"name": name, "description": description, "head": plugin(head)}
    return Call(method="POST", path="/v1/projects", body=body, read=_as(ProjectRead))


def projects(*, limit: int = 100, cursor: str | None = None) -> Call[Page[ProjectRead]]:
    """A page of all projects, oldest first."""
    params = {"limit": limit, "cursor": cursor}
    return Call(method="GET", path="/v1/projects", params=params, read=_as(Page[ProjectRead]))


def project(project: str) -> Call[ProjectRead]:
    """A project, by name or id, and how much it holds."""
    return _get(ProjectRead, project)


def edit_project(
    project: str,
    *,
    name: str | None = None,
    description: str | None = None,
    head: Plugin | None = None,
) -> Call[ProjectRead]:
    """Change what is given."""
    changes = {"name": name, "description": description, "head": head and plugin(head)}
    body = {key: value for key, value in changes.items() if value is not None}
    return Call(method="PATCH", path=project_path(project), body=body, read=_as(ProjectRead))


def delete_project(project: str) -> Call[None]:
    """Remove a project with its labels, images and history."""
    return Call(method="DELETE", path=project_path(project), read=_nothing)


def create_label(project: str, name: str) -> Call[LabelRead]:
    """Make a label without support images."""
    return _post(LabelRead, project, "labels", body={"name": name})


def labels(project: str, *, limit: int = 100, cursor: str | None = None) -> Call[Page[LabelRead]]:
    """A page of the labels, oldest first."""
    return _get(Page[LabelRead], project, "labels", limit=limit, cursor=cursor)


def delete_label(project: str, label: str) -> Call[None]:
    """Remove a label; its images go back to the pool."""
    return Call(method="DELETE", path=project_path(project, "labels", label), read=_nothing)


def add_support(
    project: str,
    label: str,
    files: Sequence[File],
    *,
    existing: Existing = "relabel",
    metadata: Metadata | None = None,
) -> Call[SupportAdded]:
    """Register support images of a label, in one request; the label is made if it is new."""
    path = project_path(project, "labels", label, "support")
    params = {"existing": existing, **_pairs(metadata)}
    return Call(method="POST", path=path, params=params, files=files, read=_as(SupportAdded))


def add_to_pool(
    project: str, files: Sequence[File], *, metadata: Metadata | None = None
) -> Call[PoolAdded]:
    """Add unlabeled images, in one request."""
    path, params = project_path(project, "pool"), _pairs(metadata)
    return Call(method="POST", path=path, params=params, files=files, read=_as(PoolAdded))


def classify(
    project: str,
    files: Sequence[File],
    *,
    top_k: int = 5,
    nearest: int = 3,
    coverage: float | None = None,
    false_rejection: float | None = None,
    query_encoder: UUID | None = None,
) -> Call[ClassifyRead]:
    """Classify images, in one request; the options are those of `POST classify`."""
    params = {
        "top_k": top_k,
        "nearest": nearest,
        "coverage": coverage,
        "false_rejection": false_rejection,
        "query_encoder": query_encoder,
    }
    path = project_path(project, "classify")
    return Call(method="POST", path=path, params=params, files=files, read=_as(ClassifyRead))


def images(
    project: str,
    *,
    state: State | None = None,
    label: str | None = None,
    metadata: Metadata | None = None,
    filename: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Call[Page[ImageRead]]:
    """A page of the images, oldest first."""
    query = {"state": state, "label": label, "filename": filename, "limit": limit, "cursor": cursor}
    return _get(Page[ImageRead], project, "images", **query, **_pairs(metadata))


def image(project: str, image: UUID) -> Call[ImageRead]:
    """One image."""
    return _get(ImageRead, project, "images", image)


def image_content(project: str, image: UUID) -> Call[bytes]:
    """The file of an image."""
    path = project_path(project, "images", image, "content")
    return Call(method="GET", path=path, read=_content)


def delete_image(project: str, image: UUID) -> Call[None]:
    """Remove an image with its history."""
    return Call(method="DELETE", path=project_path(project, "images", image), read=_nothing)


def similar(project: str, image: UUID, *, limit: int = 10) -> Call[SimilarRead]:
    """The images that look most alike."""
    return _get(SimilarRead, project, "images", image, "similar", limit=limit)


def set_label(
    project: str,
    image: UUID,
    label: str,
    *,
    annotator: str | None = None,
    source: str = "annotation",
    replace: bool = False,
) -> Call[ImageRead]:
    """Give an image a label; 409 when somebody else gave it another, unless `replace`."""
    body = {"label": label, "annotator": annotator, "source": source, "replace": replace}
    path = project_path(project, "images", image, "label")
    return Call(method="PUT", path=path, body=body, read=_as(ImageRead))


def remove_label(project: str, image: UUID) -> Call[ImageRead]:
    """Send an image back to the pool."""
    path = project_path(project, "images", image, "label")
    return Call(method="DELETE", path=path, read=_as(ImageRead))


def undo_label(project: str, image: UUID) -> Call[ImageRead]:
    """Take back the last change of an image's label."""
    return _post(ImageRead, project, "images", image, "label", "undo")


def annotations(
    project: str, image: UUID, *, limit: int = 100, cursor: str | None = None
) -> Call[Page[AnnotationRead]]:
    """A page of the changes of an image's label, newest first."""
    below = ("images", image, "annotations")
    return _get(Page[AnnotationRead], project, *below, limit=limit, cursor=cursor)


def annotate(
    project: str,
    labels: Mapping[UUID, str | None],
    *,
    annotator: str | None = None,
    source: str = "annotation",
    replace: bool = False,
) -> Call[AppliedRead]:
    """Give many images labels at once; None sends one back to the pool."""
    origin = {"annotator": annotator, "source": source, "replace": replace}
    changes = [{"image": str(image), "label": label, **origin} for image, label in labels.items()]
    return _post(AppliedRead, project, "annotations", body={"annotations": changes})


def rank(
    project: str,
    *,
    budget: int = 10,
    strategy: Plugin = "adaptive",
    where: Mapping[str, Any] | None = None,
    max_cosine: float | None = None,
    balanced: bool = False,
) -> Call[RankRead]:
    """The images of the pool that are most worth labeling, best first."""
    body = _rank_query(budget, strategy, where, max_cosine, balanced)
    return _post(RankRead, project, "pool", "rank", body=body)


def next_images(
    project: str,
    annotator: str,
    *,
    lease_s: float = 600.0,
    budget: int = 10,
    strategy: Plugin = "adaptive",
    where: Mapping[str, Any] | None = None,
    max_cosine: float | None = None,
    balanced: bool = False,
) -> Call[NextRead]:
    """The same, reserved for one annotator until a label, a skip or the end of the lease."""
    query = _rank_query(budget, strategy, where, max_cosine, balanced)
    body = {**query, "annotator": annotator, "lease_s": lease_s}
    return _post(NextRead, project, "pool", "next", body=body)


def skip(project: str, annotator: str, images: Iterable[UUID]) -> Call[SkipRead]:
    """Give reserved images back; this annotator will not get them again."""
    body = {"annotator": annotator, "images": [str(image) for image in images]}
    return _post(SkipRead, project, "pool", "skip", body=body)


def report(project: str, *, target: float | None = None) -> Call[ReportRead]:
    """How good the project is, and what more labels would bring."""
    return _get(ReportRead, project, "report", target=target)


def evaluate(
    project: str,
    *,
    ways: int | tuple[int, int] = 5,
    shots: Sequence[int] = (1, 5),
    queries: int = 5,
    episodes: int = 600,
    heads: Sequence[Plugin] | None = None,
    versions: Sequence[UUID] | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    seconds: float = 10.0,
) -> Call[EvaluationRead]:
    """How heads and encoder versions do on episodes of the labeled images."""
    body = {
        "ways": ways,
        "shots": list(shots),
        "queries": queries,
        "episodes": episodes,
        "heads": None if heads is None else [plugin(head) for head in heads],
        "versions": None if versions is None else [str(version) for version in versions],
        "labels": None if labels is None else list(labels),
        "seed": seed,
        "seconds": seconds,
    }
    return _post(EvaluationRead, project, "evaluate", body=body)


def start_job(project: str, kind: str, **options: Any) -> Call[JobRead]:
    """Start a job in the background: `finetune`, `pretrain`, ..."""
    return _post(JobRead, project, "jobs", body={"kind": kind, "options": options})


def jobs(project: str, *, limit: int = 100, cursor: str | None = None) -> Call[Page[JobRead]]:
    """A page of the jobs, newest first."""
    return _get(Page[JobRead], project, "jobs", limit=limit, cursor=cursor)


def job(project: str, job: UUID) -> Call[JobRead]:
    """Where a job stands."""
    return _get(JobRead, project, "jobs", job)


def job_events(project: str, job: UUID, *, after: int = 0, limit: int = 100) -> Call[EventsRead]:
    """What happened to a job after an event, oldest first."""
    return _get(EventsRead, project, "jobs", job, "events", after=after, limit=limit)


def cancel_job(project: str, job: UUID) -> Call[JobRead]:
    """Cancel a job."""
    return _post(JobRead, project, "jobs", job, "cancel")


def retry_job(project: str, job: UUID) -> Call[JobRead]:
    """Try a job again that failed or was cancelled."""
    return _post(JobRead, project, "jobs", job, "retry")


def create_webhook(
    project: str, url: str, events: Sequence[Event] = tuple(Event)
) -> Call[WebhookCreated]:
    """Have an address told what happens; the answer holds the secret that signs it."""
    return _post(WebhookCreated, project, "webhooks", body={"url": url, "events": list(events)})


def webhooks(
    project: str, *, limit: int = 100, cursor: str | None = None
) -> Call[Page[WebhookRead]]:
    """A page of the webhooks, oldest first."""
    return _get(Page[WebhookRead], project, "webhooks", limit=limit, cursor=cursor)


def delete_webhook(project: str, webhook: UUID) -> Call[None]:
    """Tell a webhook no more."""
    return Call(method="DELETE", path=project_path(project, "webhooks", webhook), read=_nothing)


def test_webhook(project: str, webhook: UUID) -> Call[DeliveryRead]:
    """Send a webhook a message that says nothing."""
    return _post(DeliveryRead, project, "webhooks", webhook, "test")


def deliveries(
    project: str, webhook: UUID, *, limit: int = 100, cursor: str | None = None
) -> Call[Page[DeliveryRead]]:
    """A page of what a webhook was told, newest first."""
    below = "webhooks", webhook, "deliveries"
    return _get(Page[DeliveryRead], project, *below, limit=limit, cursor=cursor)


def versions(
    project: str, *, limit: int = 100, cursor: str | None = None
) -> Call[Page[VersionRead]]:
    """A page of the encoder versions, newest first."""
    return _get(Page[VersionRead], project, "encoders", limit=limit, cursor=cursor)


def learned_heads(
    project: str, *, limit: int = 100, cursor: str | None = None
) -> Call[Page[LearnedHeadRead]]:
    """A page of the heads that jobs have learned, newest first.

    `edit_project` lets one serve: `head={"name": "learned", "options": {"learned": id}}`.
    """
    return _get(Page[LearnedHeadRead], project, "heads", limit=limit, cursor=cursor)


def promote(project: str, version: UUID) -> Call[PromotionRead]:
    """Let an encoder version serve the project, at once or by a job."""
    return _post(PromotionRead, project, "encoders", version, "promote")


def head_weights(project: str, head: UUID) -> Call[bytes]:
    """The weights of a learned head, as safetensors."""
    path = project_path(project, "heads", head, "weights")
    return Call(method="GET", path=path, read=_content)


def weights(project: str, version: UUID) -> Call[bytes]:
    """The weights of an encoder version, as safetensors."""
    path = project_path(project, "encoders", version, "weights")
    return Call(method="GET", path=path, read=_content)


def upload_version(project: str, weights: bytes, *, like: UUID | None = None) -> Call[VersionRead]:
    """Upload weights, as safetensors, for the architecture of another version."""
    return Call(
        method="POST",
        path=project_path(project, "encoders"),
        params={"like": like},
        content=weights,
        media_type=WEIGHTS_TYPE,
        read=_as(VersionRead),
    )


def import_file(
    project: str, file: bytes, *, format: str | None = None, existing: Existing = "relabel"
) -> Call[ImportRead]:
    """Add the images and labels of a file that Handful or another tool has exported."""
    return Call(
        method="POST",
        path=project_path(project, "import"),
        params={"format": format, "existing": existing},
        content=file,
        media_type="application/octet-stream",
        read=_as(ImportRead),
    )


def _get(kind: Any, project: str, *below: object, **params: Any) -> Call[Any]:
    path = project_path(project, *below)
    return Call(method="GET", path=path, params=params, read=_as(kind))


def _post(kind: Any, project: str, *below: object, body: Any = None) -> Call[Any]:
    return Call(method="POST", path=project_path(project, *below), body=body, read=_as(kind))


def _as(kind: type[Answer]) -> Callable[[httpx.Response], Answer]:
    adapter = TypeAdapter(kind)
    return lambda answer: adapter.validate_json(answer.content)


def _nothing(answer: httpx.Response) -> None:
    return None


def _content(answer: httpx.Response) -> bytes:
    return answer.content


def plugin(choice: Plugin) -> dict[str, Any]:
    """A plug-in with its options as the API takes it."""
    return {"name": choice} if isinstance(choice, str) else dict(choice)


def _rank_query(
    budget: int,
    strategy: Plugin,
    where: Mapping[str, Any] | None,
    max_cosine: float | None,
    balanced: bool,
) -> dict[str, Any]:
    return {
        "budget": budget,
        "strategy": plugin(strategy),
        "where": dict(where or {}),
        "max_cosine": max_cosine,
        "balanced": balanced,
    }


def _pairs(metadata: Metadata | None) -> dict[str, list[str]]:
    return {"metadata": [f"{k}={v}" for k, v in metadata.items()]} if metadata else {}


def _sendable(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, UUID) else value
        for key, value in params.items()
        if value is not None
    }


def _part(number: int, file: File) -> tuple[str, bytes]:
    match file:
        case bytes():
            return f"{number}", file
        case (str() as name, bytes() as content):
            return name, content
        case _:
            path = Path(str(file))
            return path.name, path.read_bytes()
