"""COCO, for classification of whole images."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from app.exchange.formats import formats
from app.exchange.reader import ImportSource
from app.exchange.records import SPOOL_BYTES, Contents, Entry, Export, Manifest, ManifestImage
from app.problems import ImportRefused, InvalidRequest

PARTS = ("images", "annotations", "categories")


@formats.register
@dataclass(frozen=True, kw_only=True)
class Coco(Manifest):
    """COCO: labels are categories, and an annotation's box is the whole image.

    https://cocodataset.org/#format-data; an image's other fields are ours.
    """

    name: ClassVar[str] = "coco.json"
    text_type: ClassVar[str] = "application/json"

    def render(self, export: Export, images: Iterable[ManifestImage]) -> Iterator[str]:
        numbers = {label: n for n, label in enumerate(export.labels, 1)}
        categories = [{"id": n, "name": label, "supercategory": ""} for label, n in numbers.items()]
        yield f'{{"categories": {_json(categories)},\n"images": ['
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as annotations:
            comma = "\n"
            for n, image in enumerate(images, 1):
                yield f"{',' if n > 1 else ''}\n{_json(_image(n, image))}"
                if image.row.label is not None:
                    annotation = _annotation(n, image, numbers[image.row.label])
                    annotations.write(f"{comma}{_json(annotation)}".encode())
                    comma = ",\n"
            yield '\n],\n"annotations": ['
            annotations.seek(0)
            for line in annotations:
                yield line.decode()
        yield "\n]}\n"

    def recognises(self, source: ImportSource) -> bool:
        if not (source.text_start(".json") or b"").startswith(b"{"):
            return False
        try:
            document = source.document()
        except ImportRefused:
            return False
        return isinstance(document, dict) and "images" in document and "annotations" in document

    def read(self, source: ImportSource) -> Contents:
        document = source.document()
        if not isinstance(document, dict) or not all(_objects(document.get(p)) for p in PARTS):
            raise ImportRefused(f"COCO is an object with lists of objects: {', '.join(PARTS)}")
        names = {_key(c): c.get("name") for c in document["categories"]}
        if not all(isinstance(name, str) for name in names.values()):
            raise ImportRefused("a category has no name")
        labels: dict[Any, dict[str | None, None]] = defaultdict(dict)  # of each image, in order
        for annotation in document["annotations"]:
            category = names.get(_key(annotation, "category_id"))
            labels[_key(annotation, "image_id")][category] = None
        entries = (_entry(i, list(labels.get(_key(i), ())), source) for i in document["images"])
        return Contents(list(names.values()), entries)


def _image(number: int, image: ManifestImage) -> dict[str, Any]:
    record = image.record()
    ours = {key: value for key, value in record.items() if key not in ("image", "label")}
    return ours | {"id": number, "image_id": record["id"], "file_name": record["image"]}


def _annotation(number: int, image: ManifestImage, category: int) -> dict[str, Any]:
    width, height = image.row.width, image.row.height
    return {
        "id": number,
        "image_id": number,
        "category_id": category,
        "bbox": [0, 0, width, height],
        "area": width * height,
        "segmentation": [],
        "iscrowd": 0,
    }


def _entry(image: Mapping[str, Any], labels: list[str | None], source: ImportSource) -> Entry:
    record = {**image, "id": image.get("image_id")}
    if len(labels) > 1 or None in labels:
        named = ", ".join(repr(label) for label in labels if label is not None)
        what = f"several categories ({named})" if named else "a category that is not listed"
        problem = InvalidRequest(f"the image has {what}; an image has one label")
        return source.entry(record)._replace(content=problem, label=None)
    return source.entry(record | {"label": labels[0] if labels else None})


def _key(record: Mapping[str, Any], name: str = "id") -> str:
    """An id, to compare: files differ in whether they are numbers."""
    return str(record.get(name))


def _objects(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(record, dict) for record in part)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
