"""CSV."""

import base64
import csv
import io
from uuid import uuid4

import pytest

from app.exchange.formats.csv_manifest import CsvManifest
from app.exchange.records import Export, Row
from tests.app.exchange.formats.conftest import export, facts, images, import_, post, upload
from tests.app.exchange.formats.test_folders import packed


def test_it_is_a_table_with_a_line_for_each_image(awkward):
    text = export(awkward, name="csv_manifest").decode()

    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    expected = images(awkward, "awkward")
    assert [row["id"] for row in rows] == [image["id"] for image in expected]
    assert [row["label"] or None for row in rows] == [image["label"] for image in expected]
    assert [row["annotator"] or None for row in rows] == [i["annotator"] for i in expected]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "＝"])  # noqa: RUF001
def test_a_spreadsheet_computes_nothing_when_that_is_asked_for(start):
    text = f"{start}HYPERLINK(A1)"
    row = Row(
        id=uuid4(), sha256="0" * 64, filename=text, media_type="image/png", width=1, height=1,
        label=text, annotator=text, split=None, suggestions=(),
    )  # fmt: skip
    export = Export(uuid4(), [text], lambda: iter([row]), lambda _: b"")

    def cells(**options):
        content = b"".join(CsvManifest(**options).write(export)).decode()
        (record,) = csv.DictReader(io.StringIO(content, newline=""))
        return {record[column] for column in ("filename", "label", "annotator")}

    assert cells() == {text}
    assert cells(safe_for_spreadsheets=True) == {f"'{text}"}


def test_a_table_of_another_tool_names_images_of_the_project_by_file_name(shared, few):
    content = "filename,label,price\n3.png,green,7\nphotos/2.png,green\n".encode("utf-8-sig")

    made = import_(shared, content, few)

    assert (made["format"], made["failed"], made["labeled"]) == ("csv_manifest", [], 2)
    labels = {fact[1]: fact[5] for fact in facts(shared, few)}
    assert labels == {"0.png": "red", "1.png": "red", "2.png": "green", "3.png": "green"}


def test_a_table_beside_its_images_in_a_zip(shared, copy, png):
    table = b"path,label\n1.png,hat\nimages/2.png,\nnone.png,hat\n"
    members = {
        "data/table.csv": table,
        "data/1.png": png("red"),
        "data/images/2.png": png("red", 1),
    }

    made = import_(shared, packed(**members), copy)

    assert {(fact[1], fact[5]) for fact in facts(shared, copy)} == {
        ("1.png", "hat"),
        ("2.png", None),
    }
    assert [f["position"] for f in made["failed"]] == [2]
    assert "name 'none.png'" in made["failed"][0]["problem"]["detail"]


def test_an_image_may_be_a_data_url(shared, copy, png):
    data = base64.b64encode(png("red")).decode()
    rows = [f"data:image/png;base64,{data}", "data:image/png,red", "data:image/png;base64,*"]
    content = "image,label\n" + "".join(f'"{row}",hat\n' for row in rows)

    made = import_(shared, content.encode(), copy)

    assert (made["created"], made["labeled"]) == (1, 1)
    assert [f["problem"]["type"] for f in made["failed"]] == ["/problems/image-not-decodable"] * 2


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"shape,colour\nround,red\n", "names none of the columns"),
        (b'image\n"3.png\n', "unexpected end of data"),
        ("image\n3é.png\n".encode("latin-1"), "can't decode byte"),
    ],
)
def test_what_is_no_table_of_images_is_refused(shared, few, content, detail):
    answer = shared.post(f"/v1/projects/{few}/import?format=csv_manifest", content=content)

    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_what_came_before_a_broken_line_stays(shared, few):
    made = import_(shared, b'image,label\n3.png,green\n"2.png', few, "?format=csv_manifest")

    assert made["labeled"] == 1
    assert [f["position"] for f in made["failed"]] == [1]


def test_an_image_is_found_by_its_file_name_only_if_no_other_has_it(shared, few, png):
    upload(shared, f"{few}/pool", ("3.png", png("white", 99)))

    answer = shared.post(f"/v1/projects/{few}/import", content=b"image,label\n3.png,green\n")

    assert answer.status_code == 422
    assert "several images of the project are named '3.png'" in answer.json()["detail"]


def test_no_url_is_fetched(shared, few):
    content = b"image,label\nhttps://example.org/a.png,green\nhttps://example.org/3.png,green\n"

    made = import_(shared, content, few)

    assert made["labeled"] == 1  # the project has a 3.png
    assert "URLs are not fetched" in made["failed"][0]["problem"]["detail"]


def test_labels_that_are_there_can_be_kept(shared, few):
    content = b"image,label\n0.png,green\n3.png,green\n"

    made = post(shared, f"{few}/import?existing=keep", content=content).json()

    assert made["labeled"] == 1
    assert {fact[1]: fact[5] for fact in facts(shared, few)}["0.png"] == "red"


def test_a_label_or_an_annotator_that_cannot_be_is_refused_alone(shared, few):
    content = f"image,label,annotator\n3.png,a/b,\n3.png,green,{'x' * 201}\n3.png,green,ada\n"

    made = import_(shared, content.encode(), few)

    assert [f["position"] for f in made["failed"]] == [0, 1]
    assert {fact[1]: fact[5:] for fact in facts(shared, few)}["3.png"] == ("green", "ada")
