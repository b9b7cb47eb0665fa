"""Projects are made, named, and removed with all they have."""

import pytest

from app.labeling.projects import check_edition, clean_name
from app.problems import InvalidRequest, Stale
from tests.uploads import upload


def test_deleting_a_project_takes_all_it_has(birds, png):
    upload(birds, "/labels/red/support", png("red"))

    assert birds.delete("/v1/projects/birds").status_code == 204

    assert birds.get("/v1/projects/birds").status_code == 404
    assert birds.post("/v1/projects", json={"name": "birds"}).status_code == 201


def test_files_of_embeddings_go_with_their_project(birds, png, settings):
    for label in ("red", "blue"):
        upload(birds, f"/labels/{label}/support", png(label))
    upload(birds, "/pool", png("green"))
    assert birds.post("/v1/projects/birds/pool/rank", json={"budget": 1}).status_code == 200
    before = list(settings.vector_files.glob("*/*.vectors"))

    birds.delete("/v1/projects/birds")

    assert len(before) == 1
    assert list(settings.vector_files.glob("*/*")) == []


def test_projects_do_not_see_each_other(birds, png):
    image = upload(birds, "/pool", png("red")).json()["images"][0]["id"]
    birds.post("/v1/projects", json={"name": "fish"})

    for method, path in [
        ("GET", ""),
        ("GET", "/content"),
        ("GET", "/thumbnail"),
        ("GET", "/annotations"),
        ("DELETE", ""),
        ("DELETE", "/label"),
        ("POST", "/label/undo"),
    ]:
        response = birds.request(method, f"/v1/projects/fish/images/{image}{path}")
        assert response.status_code == 404, (method, path)


def test_a_name_is_kept_composed_and_trimmed():
    assert clean_name(" Mu\u0308ller ") == "M\u00fcller"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (" ", "is empty"),
        ("x" * 201, "at most 200"),
        ("a/b", "leave out slashes"),
        ("..", "lone dots"),
        ("a\tb", "control"),
        ("0" * 32, "looks like an id"),
    ],
)
def test_a_name_that_cannot_be_part_of_an_address_is_refused(name, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        clean_name(name)


def test_an_edition_that_is_not_expected_may_be_any():
    check_edition(3, None)
    check_edition(3, 3)
    with pytest.raises(Stale, match='is at "3"'):
        check_edition(3, 2)
