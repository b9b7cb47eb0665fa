"""Projects that are read again when, and only when, the database has changed."""

import pytest
import sqlalchemy as sa

from app.problems import ProjectNotFound
from app.sql.database import Database
from app.sql.project_cache import ProjectCache
from tests import databases

database_url = databases.each


@pytest.fixture
def projects(birds):
    return ProjectCache(birds.app.state.parts.db)


def test_what_another_process_changes_is_seen_at_once(birds, projects, settings):
    assert projects.find("birds").encoder_id
    other = Database(settings.database)

    with other.writing() as session:
        session.execute(sa.text("UPDATE projects SET revision = 7, name = 'hens'"))
    other.close()

    assert projects.find("hens").revision == 7
    assert projects.find(str(projects.find("hens").id)).name == "hens"
    with pytest.raises(ProjectNotFound):
        projects.find("birds")


def test_what_the_service_changes_is_seen_at_once(birds, projects):
    before = projects.find("birds").edition

    assert birds.patch("/v1/projects/birds", json={"description": "wild"}).status_code == 200

    assert projects.find("birds").edition == before + 1
    assert birds.delete("/v1/projects/birds").status_code == 204
    with pytest.raises(ProjectNotFound):
        projects.find("birds")


@databases.only_sqlite
def test_nothing_is_asked_while_nothing_has_changed(birds, projects, queries):
    first = projects.find("birds")
    queries.clear()

    assert projects.find("birds") is first
    assert not queries


def test_no_more_projects_are_kept_than_are_wanted(birds, projects, monkeypatch):
    monkeypatch.setattr("app.sql.project_cache.MOST_KEYS", 2)
    project = projects.find("birds")

    for spelling in ("birds", str(project.id), project.id.hex, "birds "):
        assert projects.find(spelling).id == project.id

    assert len(projects._known) <= 2
