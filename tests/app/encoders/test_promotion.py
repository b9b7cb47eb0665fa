"""A version serves a project once it has embedded every image."""

from uuid import UUID, uuid4

import pytest

from app.problems import VersionNotFound
from models.encoders.specs import parse


@pytest.fixture
def parts(birds):
    return birds.app.state.parts


@pytest.fixture
def project(birds, png):
    """The id of `birds`, which has three images."""
    files = [("files", (f"{n}.png", png("red", n))) for n in range(3)]
    birds.post("/v1/projects/birds/pool", files=files)
    return UUID(birds.get("/v1/projects/birds").json()["id"])


def serving(birds):
    return UUID(birds.get("/v1/projects/birds").json()["encoder"]["id"])


def test_the_pointer_moves_when_no_image_is_missing(birds, parts, project):
    version = parts.versions.get_or_create(*parse("conv4:4"))
    encoder = parts.versions.load(version)
    assert not parts.promotions.move_if_ready("birds", version)
    assert parts.promotions.missing(project, version) == 3

    progress = list(parts.promotions.embed_missing(project, version, encoder, set()))

    assert progress == [(3, 0)]
    assert serving(birds) != version
    assert parts.promotions.move_if_ready("birds", version)
    assert serving(birds) == version


def test_an_image_that_cannot_be_read_any_more_is_left_out(birds, parts, project):
    image = birds.get("/v1/projects/birds/images").json()["items"][0]
    parts.blobs.remove(image["sha256"])
    version = parts.versions.get_or_create(*parse("conv4:4"))
    unreadable: set[UUID] = set()

    progress = list(
        parts.promotions.embed_missing(project, version, parts.versions.load(version), unreadable)
    )

    assert progress == [(2, 0)]
    assert unreadable == {UUID(image["id"])}
    with parts.db.writing() as session:
        assert not parts.promotions.move(session, project, version)
        assert parts.promotions.move(session, project, version, unreadable)


def test_a_promotion_is_not_made_over_another(birds, parts, project):
    before = serving(birds)
    with parts.db.writing() as session:
        assert not parts.promotions.move(session, project, before, instead_of=uuid4())
        assert parts.promotions.move(session, project, before, instead_of=before)


def test_a_version_that_is_not_there_is_named(parts, project):
    with pytest.raises(VersionNotFound):
        parts.promotions.version("birds", uuid4())
