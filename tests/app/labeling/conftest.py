"""A service on both databases, and what tests of labels ask of it."""

import pytest

from tests import databases
from tests.uploads import upload

database_url = databases.each


@pytest.fixture
def pool(birds, png):
    """Two labels with support, and three images in the pool; their ids."""
    upload(birds, "/labels/red/support", png("red"))
    upload(birds, "/labels/blue/support", png("blue"))
    contents = [png(colour, 30) for colour in ("red", "purple", "blue")]
    return [image["id"] for image in upload(birds, "/pool", *contents).json()["images"]]
