"""Predictors are fitted again when, and only when, what they rest on has changed."""

from app.sql.lookups import find_project
from tests import databases
from tests.uploads import upload

database_url = databases.each


def test_a_head_is_fitted_anew_for_a_label_and_not_for_each_upload(birds, png):
    parts = birds.app.state.parts

    def fitted():
        with parts.db.reading() as session:
            return parts.ranker.predictors.fitted(find_project(session, "birds"))

    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    for n in range(22):
        upload(birds, "/pool", png("green", n))
    before = fitted()

    upload(birds, "/pool", png("green", 22))
    assert fitted() is before

    upload(birds, "/labels/red/support", png("red", 1))
    assert fitted() is not before
