"""CSV: a line for each image."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from app.exchange.formats import formats
from app.exchange.reader import IMAGE_KEYS, ImportSource
from app.exchange.records import Contents, Entry, Export, Manifest, ManifestImage
from app.problems import ImportRefused

COLUMNS = (
    "image", "id", "sha256", "filename", "media_type", "width", "height", "label", "annotator",
    "split", "suggestion", "confidence", "missing",
)  # fmt: skip
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001 - full width
KEYS = {*IMAGE_KEYS, "id", "sha256"}  # of which a file has one at least


@formats.register
@dataclass(frozen=True, kw_only=True)
class CsvManifest(Manifest):
    """A line of comma-separated values for each image, with URLs or in a zip with the image files.

    https://www.rfc-editor.org/rfc/rfc4180
    """

    # Put ' before text that a spreadsheet would compute; an import takes it for a part of the text.
    safe_for_spreadsheets: bool = False

    name: ClassVar[str] = "manifest.csv"
    text_type: ClassVar[str] = "text/csv; charset=utf-8"

    def render(self, export: Export, images: Iterable[ManifestImage]) -> Iterator[str]:
        line = io.StringIO(newline="")
        writer = csv.DictWriter(
            line,
            COLUMNS,
            quoting=csv.QUOTE_ALL if self.safe_for_spreadsheets else csv.QUOTE_MINIMAL,
        )
        writer.writeheader()
        yield _drain(line)
        for image in images:
            record = image.record()
            if self.safe_for_spreadsheets:
                record = {column: _as_text(value) for column, value in record.items()}
            writer.writerow(record)
            yield _drain(line)

    def recognises(self, source: ImportSource) -> bool:
        start = source.text_start(".csv") or b""
        header = start.partition(b"\n")[0].decode(errors="replace").strip()
        return bool(KEYS.intersection(next(csv.reader([header]), [])))

    def read(self, source: ImportSource) -> Contents:
        return Contents(source.labels(), _entries(source))


def _as_text(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def _drain(line: io.StringIO) -> str:
    text = line.getvalue()
    line.seek(0)
    line.truncate()
    return text


def _entries(source: ImportSource) -> Iterator[Entry]:
    csv.field_size_limit(2 * source.limits.file_bytes + (1 << 16))  # for data: URLs
    with source.text(".csv") as file:
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        reader = csv.DictReader(text, restkey="", strict=True)
        try:
            if not KEYS.intersection(reader.fieldnames or ()):
                raise ImportRefused(f"the first line names none of the columns {', '.join(KEYS)}")
            for record in reader:
                yield source.entry(record)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ImportRefused(f"line {reader.line_num}: {error}") from error
        finally:
            text.detach()
