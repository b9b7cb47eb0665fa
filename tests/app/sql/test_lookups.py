"""Projects, labels and versions are looked up by name or id."""

from uuid import uuid4

import pytest
from sqlalchemy import select

from app.problems import LabelNotFound, ProjectNotFound, VersionNotFound
from app.sql.database import Database, migrate
from app.sql.lookups import (
    find_label,
    find_project,
    find_version,
    label_names,
    page_of,
    parse_id,
    portions,
    usable_versions,
)
from app.sql.tables import Label, Project, ProjectVersion


@pytest.fixture
def session(tmp_path, make_version):
    """A session in which a project `birds` has the labels `wren` and `owl`, in this order."""
    url = f"sqlite:///{tmp_path / 'test.sqlite'}"
    migrate(url)
    database = Database(url)
    version = make_version(database)
    with database.writing() as session:
        project = Project(name="birds", head={}, encoder_id=version)
        session.add(project)
        session.flush()
        for name in ("wren", "owl"):
            session.add(Label(project_id=project.id, name=name))
            session.flush()
        yield session
    database.close()


def test_a_project_has_a_name_and_an_id(session):
    project = find_project(session, " birds ")

    assert find_project(session, str(project.id)) is project
    assert find_project(session, project.id.hex, lock=True) is project
    for key in ("fish", str(uuid4())):
        with pytest.raises(ProjectNotFound, match="lists them"):
            find_project(session, key)


def test_a_label_has_a_name_and_an_id_in_its_project(session):
    project = find_project(session, "birds")
    wren = find_label(session, project, "wren")

    assert find_label(session, project, str(wren.id)) is wren
    with pytest.raises(LabelNotFound, match="'birds' has no label 'robin'"):
        find_label(session, project, "robin")


def test_the_names_of_labels_come_in_the_order_of_their_making(session):
    project = find_project(session, "birds")

    assert list(label_names(session, project.id).values()) == ["wren", "owl"]
    assert label_names(session, uuid4()) == {}


def test_a_version_that_another_project_owns_cannot_be_used(session):
    birds = find_project(session, "birds")
    version = birds.encoder_id
    fish = Project(name="fish", head={}, encoder_id=version)
    session.add(fish)
    session.flush()
    assert find_version(session, fish, version).id == version

    session.add(ProjectVersion(encoder_id=version, project_id=birds.id, metrics={}))
    session.flush()

    assert [v.id for v in session.scalars(usable_versions(birds))] == [version]
    with pytest.raises(VersionNotFound, match="'fish' has no encoder version"):
        find_version(session, fish, version)


def test_a_page_begins_after_a_row_in_either_order(session):
    wren, owl = (find_label(session, find_project(session, "birds"), n) for n in ("wren", "owl"))

    def page(after, limit, **order):
        query = page_of(select(Label), Label.id, after, limit, **order)
        return [label.name for label in session.scalars(query)]

    assert page(None, 1) == ["wren"]
    assert page(wren.id, 5) == ["owl"]
    assert page(None, 1, newest_first=True) == ["owl"]
    assert page(owl.id, 5, newest_first=True) == ["wren"]


def test_a_list_is_divided_without_a_rest_getting_lost():
    assert list(portions([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(portions([])) == []


@pytest.mark.parametrize("text", ["birds", "", "x" * 32, "x" * 36])
def test_a_name_is_no_id(text):
    assert parse_id(text) is None
