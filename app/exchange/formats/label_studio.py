"""Label Studio's tasks."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from app.exchange.formats import formats
from app.exchange.reader import ImportSource
from app.exchange.records import Contents, Entry, Export, Manifest, ManifestImage
from app.problems import ImportRefused, InvalidRequest


@formats.register
@dataclass(frozen=True, kw_only=True)
class LabelStudio(Manifest):
    """Label Studio JSON: a task for each image, with its label and suggestions as choices.

    https://labelstud.io/guide/tasks
    """

    from_name: str = "label"  # of the `Choices` tag
    to_name: str = "image"  # of the `Image` tag

    name: ClassVar[str] = "label_studio.json"
    text_type: ClassVar[str] = "application/json"

    def render(self, export: Export, images: Iterable[ManifestImage]) -> Iterator[str]:
        yield "["
        for n, image in enumerate(images):
            task = json.dumps(self._task(image), ensure_ascii=False)
            yield f"{',' if n else ''}\n{task}"
        yield "\n]\n"

    def _task(self, image: ManifestImage) -> dict[str, Any]:
        row, record = image.row, image.record()
        meta = {key: value for key, value in record.items() if key != "image"}
        label = [] if row.label is None else [{"result": [self._choice(row.label)]}]
        likeliest = [
            {"score": s.probability, "result": [self._choice(s.label)]} for s in row.suggestions[:1]
        ]
        if likeliest:
            meta["probabilities"] = {s.label: s.probability for s in row.suggestions}
        return {
            "data": {"image": record["image"]},
            "meta": meta,
            "annotations": label,
            "predictions": likeliest,
        }

    def _choice(self, label: str) -> dict[str, Any]:
        return {
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": "choices",
            "value": {"choices": [label]},
        }

    def recognises(self, source: ImportSource) -> bool:
        return (source.text_start(".json") or b"").startswith(b"[")

    def read(self, source: ImportSource) -> Contents:
        tasks = source.document()
        if not isinstance(tasks, list):
            raise ImportRefused("Label Studio JSON is a list of tasks")
        return Contents(source.labels(), (_entry(task, source) for task in tasks))


def _entry(task: Any, source: ImportSource) -> Entry:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        problem = InvalidRequest("a task is an object with `data`, in which `image` is a URL")
        return Entry(None, None, None, problem)
    meta = task.get("meta")
    record = {**data, **(meta if isinstance(meta, dict) else {}), "label": None}
    labels = _labels(task.get("annotations"))
    if len(labels) > 1:
        problem = InvalidRequest(f"the task has several choices ({labels}); an image has one label")
        return source.entry(record)._replace(content=problem)
    return source.entry(record | {"label": labels[0] if labels else None})


def _labels(annotations: Any) -> list[Any]:
    """The choices of the last annotation that was not skipped."""
    for annotation in reversed(annotations if isinstance(annotations, list) else []):
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        results = annotation.get("result")
        choices = [
            choice
            for result in (results if isinstance(results, list) else [])
            if isinstance(result, Mapping) and isinstance(result.get("value"), Mapping)
            if isinstance(result["value"].get("choices"), list)
            for choice in result["value"]["choices"]
        ]
        if choices:
            return choices
    return []
