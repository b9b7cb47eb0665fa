"""Export and import over HTTP."""

import pytest

EXPORT = "/v1/projects/birds/export"
IMPORT = "/v1/projects/birds/import"


def test_the_answer_is_a_file_with_a_name(birds):
    answer = birds.post(EXPORT, json={"format": {"name": "csv_manifest"}})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"birds.csv\"; filename*=UTF-8''birds.csv"
    )


@pytest.mark.parametrize(
    ("name", "plain", "full"),
    [
        ('a "b"; c', "a-b-c.zip", "a%20%22b%22%3B%20c.zip"),
        ("été", "t-.zip", "%C3%A9t%C3%A9.zip"),
        (".鳥", "zip", ".%E9%B3%A5.zip"),
    ],
)
def test_any_name_of_a_project_makes_a_header(service, name, plain, full):
    service.post("/v1/projects", json={"name": name})

    answer = service.post(f"/v1/projects/{name}/export", json={})

    assert answer.headers["content-disposition"] == (
        f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"format": {"name": "xml"}},
        {"format": {"name": "coco", "options": {"pretty": True}}},
        {"state": "some"},
        {"splits": {"train": 0.5, "test": 0.4}},
        {"splits": {"train": 1.5, "test": -0.5}},
        {"splits": {"../x": 1.0}},
        {"splits": {"": 1.0}},
        {"splits": {"a": 0.5, "A": 0.5}},
        {"splits": {}},
    ],
)
def test_what_cannot_be_exported_is_refused(birds, body):
    answer = birds.post(EXPORT, json=body)

    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-request"


def test_a_project_that_is_not_there_is_named(service):
    for path in ("export", "import"):
        answer = service.post(f"/v1/projects/none/{path}", json={})

        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        ({"content": b""}, 422, "the body is empty"),
        ({"files": [("files", ("a", b"1")), ("files", ("b", b"2"))]}, 422, "2 files: send one"),
        ({"content": b"what is this?"}, 422, "looks like none of coco, csv_manifest"),
    ],
)
def test_what_is_no_file_to_import_is_refused(birds, content, status, detail):
    answer = birds.post(IMPORT, **content)

    assert answer.status_code == status
    assert detail in answer.json()["detail"]
