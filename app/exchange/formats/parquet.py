"""Parquet as Hugging Face datasets read it."""

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.exchange.formats import formats
from app.exchange.reader import ImportSource
from app.exchange.records import Contents, Entry, Export, ManifestImage, Unreadable
from app.problems import FormatUnavailable, ImportRefused, InvalidRequest
from app.storage.archives import Sink

GROUP_IMAGES = 256  # in a row group, which is what is in memory
GROUP_BYTES = 32 << 20
READ_ROWS = 16
NO_LABEL = -1  # as data sets write it; we write null
STRINGS = ("id", "sha256", "filename", "media_type", "annotator", "split", "suggestion", "missing")
COLUMNS = (
    "image", "label", "split", "suggestion", "confidence", "id", "sha256", "filename",
    "media_type", "width", "height", "annotator", "missing",
)  # fmt: skip


@formats.register
@dataclass(frozen=True, kw_only=True)
class Parquet:
    """Parquet for Hugging Face datasets: image bytes, label, split and confidence.

    https://huggingface.co/docs/datasets; needs `pip install 'handful[parquet]'`.
    """

    media_type = "application/vnd.apache.parquet"
    suffix = ".parquet"

    def write(self, export: Export) -> Iterator[bytes]:
        return _parts(_arrow(), export)

    def recognises(self, source: ImportSource) -> bool:
        return source.start.startswith(b"PAR1")

    def read(self, source: ImportSource) -> Contents:
        arrow = _arrow()
        try:
            # Pages are unpacked one after the other, not a row group at once.
            file = arrow.parquet.ParquetFile(source.file, pre_buffer=False, buffer_size=1 << 20)
        except (arrow.ArrowException, OSError) as error:
            raise ImportRefused(f"the file is not Parquet: {error}") from error
        schema = file.schema_arrow
        if "image" not in schema.names:
            raise ImportRefused(f"there is no column 'image' among {', '.join(schema.names)}")
        names = _label_names(schema.metadata or {})
        columns = [name for name in schema.names if name in {*COLUMNS, "file_name"}]
        return Contents(names, _entries(arrow, file, columns, names, source))


def _arrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise FormatUnavailable(
            "Parquet needs pyarrow, which is not installed where the service runs: "
            "pip install 'handful[parquet]'"
        ) from error


def _parts(arrow: Any, export: Export) -> Iterator[bytes]:
    sink = Sink()
    schema = _schema(arrow, export.labels)
    plain = [name for name in COLUMNS if name != "image"]  # of images, it would be a copy
    writer = arrow.parquet.ParquetWriter(
        sink, schema, use_dictionary=plain, write_statistics=plain, write_page_index=False
    )
    numbers = {label: n for n, label in enumerate(export.labels)}
    with writer:
        for group in _groups(_images(export)):
            rows = [_record(image, content, numbers) for image, content in group]
            writer.write_table(arrow.Table.from_pylist(rows, schema), row_group_size=len(rows))
            yield sink.drain()
    yield sink.drain()


def _images(export: Export) -> Iterator[tuple[ManifestImage, bytes | None]]:
    for row in export.rows():
        try:
            yield ManifestImage(row, row.filename, None), export.content(row)
        except Unreadable as reason:
            yield ManifestImage(row, None, str(reason)), None


def _groups(
    images: Iterator[tuple[ManifestImage, bytes | None]],
) -> Iterator[list[tuple[ManifestImage, bytes | None]]]:
    group: list[tuple[ManifestImage, bytes | None]] = []
    size = 0
    for image, content in images:
        group.append((image, content))
        size += len(content or b"")
        if len(group) == GROUP_IMAGES or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _record(
    image: ManifestImage, content: bytes | None, numbers: Mapping[str, int]
) -> dict[str, Any]:
    record = image.record()
    label = record["label"]
    record["image"] = None if content is None else {"bytes": content, "path": record["image"]}
    record["label"] = None if label is None else numbers[label]
    return record


def _schema(arrow: Any, labels: Any) -> Any:
    types = dict.fromkeys(STRINGS, arrow.string()) | {
        "image": arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]),
        "label": arrow.int64(),
        "confidence": arrow.float64(),
        "width": arrow.int32(),
        "height": arrow.int32(),
    }
    features: dict[str, Any] = {
        name: {"dtype": str(types[name]).replace("double", "float64"), "_type": "Value"}
        for name in COLUMNS
    }
    features["image"] = {"_type": "Image"}
    features["label"] = {"names": list(labels), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return arrow.schema([(name, types[name]) for name in COLUMNS], metadata)


def _label_names(metadata: Mapping[bytes, bytes]) -> list[str]:
    """What the numbers in the column `label` mean."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (ValueError, KeyError, TypeError):
        return []


def _entries(
    arrow: Any, file: Any, columns: list[str], names: list[str], source: ImportSource
) -> Iterator[Entry]:
    try:
        for batch in file.iter_batches(READ_ROWS, columns=columns, use_threads=False):
            for record in batch.to_pylist():
                yield _entry(record, names, source)
    except (arrow.ArrowException, OSError) as error:
        raise ImportRefused(f"the file is damaged: {error}") from error


def _entry(record: dict[str, Any], names: list[str], source: ImportSource) -> Entry:
    image, label = record["image"], record.get("label")
    content, record["image"] = image, None
    if isinstance(image, Mapping):
        content, record["image"] = image.get("bytes"), image.get("path")
    elif isinstance(image, str):
        record["image"] = image
    if isinstance(label, int) and names:
        if not -1 <= label < len(names):
            problem = InvalidRequest(f"label {label} is none of the {len(names)} that are named")
            return source.entry(record)._replace(content=problem)
        record["label"] = None if label == NO_LABEL else names[label]
    return source.entry(record, content if isinstance(content, bytes) else None)
