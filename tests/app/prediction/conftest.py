"""A project of three colours, and queries to it."""

import pytest

from tests.uploads import upload


@pytest.fixture
def colours(birds, png):
    """A service whose project `birds` has six images each of red, yellow and blue."""
    for colour in ("red", "yellow", "blue"):
        upload(birds, f"/labels/{colour}/support", *(png(colour, n) for n in range(6)))
    return birds
