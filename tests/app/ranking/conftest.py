"""A service on both databases with a pool, and what tests of rankings ask of it."""

import pytest
from sqlalchemy import select

from app.sql.tables import Reservation
from tests import databases
from tests.uploads import upload

NEXT = "/v1/projects/birds/pool/next"
RELABEL = {"name": "relabel"}


database_url = databases.each


@pytest.fixture
def pool(birds, png):
    """Two labels with support, and twelve images in the pool; their ids."""
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    contents = [png(colour, 30 + n) for n in range(4) for colour in ("red", "purple", "blue")]
    return [image["id"] for image in upload(birds, "/pool", *contents).json()["images"]]


def hand_out(service, annotator, budget=3, **more):
    answer = service.post(NEXT, json={"annotator": annotator, "budget": budget, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer):
    return [image["image"] for image in answer["images"]]


def reservations(service):
    with service.app.state.parts.db.reading() as session:
        return list(session.scalars(select(Reservation).order_by(Reservation.id)))


@pytest.fixture
def mislabeled(birds, png):
    """Twelve images of each label, one red one labeled blue by ann; its id."""
    upload(birds, "/labels/red/support", *(png("red", n) for n in range(12)))
    upload(birds, "/labels/blue/support", *(png("blue", n) for n in range(12)))
    wrong = upload(birds, "/pool", png("red", 50), png("red", 51)).json()["images"][0]["id"]
    path = f"/v1/projects/birds/images/{wrong}/label"
    assert birds.put(path, json={"label": "blue", "annotator": "ann"}).status_code == 200
    return wrong
