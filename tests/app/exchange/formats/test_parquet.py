"""Parquet for Hugging Face datasets."""

import io
import json
import sys

import pytest

from tests.app.exchange.formats.conftest import export, facts, images, import_

arrow = pytest.importorskip("pyarrow", reason="is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def written(columns, features=None) -> bytes:
    table = arrow.table(columns)
    if features is not None:
        meta = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(meta)
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def test_it_has_images_and_the_names_of_labels_as_data_sets_write_them(shared, few):
    file = parquet.ParquetFile(
        io.BytesIO(export(shared, few, "parquet", splits={"train": 1.0}, predictions=True))
    )

    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    rows = file.read().to_pylist()
    assert list(features) == file.schema_arrow.names
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": ["red", "blue"]}
    assert [row["label"] for row in rows] == [0, 0, 1, None]
    assert {row["split"] for row in rows} == {"train"}
    assert rows[3]["suggestion"] in {"red", "blue"}
    assert 0 < rows[3]["confidence"] <= 1
    first = images(shared, few)[0]
    content = shared.get(f"/v1/projects/{few}/images/{first['id']}/content").content
    assert rows[0]["image"] == {"bytes": content, "path": "0.png"}


def test_it_is_written_row_group_by_row_group(shared, few, monkeypatch):
    monkeypatch.setattr("app.exchange.formats.parquet.GROUP_BYTES", 1)

    file = parquet.ParquetFile(io.BytesIO(export(shared, few, "parquet")))

    assert file.num_row_groups == 4


def test_labels_may_be_numbers_with_names(shared, copy, png):
    cells = [{"bytes": png("red", n), "path": f"{n}.png"} for n in range(4)]
    features = {"label": {"names": ["hat", "dress"], "_type": "ClassLabel"}}

    made = import_(shared, written({"image": cells, "label": [1, 0, -1, 2]}, features), copy)

    assert made["format"] == "parquet"
    assert {(f[1], f[5]) for f in facts(shared, copy)} == {
        ("0.png", "dress"),
        ("1.png", "hat"),
        ("2.png", None),
    }
    assert "label 2 is none of the 2" in made["failed"][0]["problem"]["detail"]


def test_labels_may_be_words_and_images_plain_bytes(shared, copy, png):
    content = written({"image": [png("red"), b"no image"], "label": ["hat", "hat"]})

    made = import_(shared, content, copy)

    assert [(f[1], f[5]) for f in facts(shared, copy)] == [(None, "hat")]
    assert [f["position"] for f in made["failed"]] == [1]


@pytest.mark.parametrize("meta", [{"label": 7}, {}, []])
def test_other_metadata_does_not_disturb(shared, copy, png, meta):
    import_(shared, written({"image": [png("red")], "label": [3]}, meta), copy)

    assert [f[5] for f in facts(shared, copy)] == ["3"]


def test_a_table_without_images_is_refused(shared, copy):
    answer = shared.post(f"/v1/projects/{copy}/import", content=written({"picture": [1]}))

    assert answer.status_code == 422
    assert "no column 'image' among picture" in answer.json()["detail"]


def test_an_image_larger_than_allowed_fails_alone(shared, copy, png, limit):
    limit(file_bytes=1000)

    made = import_(shared, written({"image": [b"x" * 1001, png("red")]}), copy)

    assert made["created"] == 1
    assert made["failed"][0]["problem"]["type"] == "/problems/file-too-large"


@pytest.mark.parametrize("way", ["export", "import"])
def test_without_pyarrow_it_says_what_to_install(shared, few, monkeypatch, way):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)

    answer = (
        shared.post(f"/v1/projects/{few}/export", json={"format": {"name": "parquet"}})
        if way == "export"
        else shared.post(f"/v1/projects/{few}/import", content=b"PAR1")
    )

    assert answer.status_code == 422
    assert "pip install 'handful[parquet]'" in answer.json()["detail"]
