"""A project of three colours, and queries to it."""

import pytest


def upload(service, path, *contents, **params):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    return service.post(f"/v1/projects/birds{path}", files=files, params=params)


@pytest.fixture
def colours(birds, png):
    """A service whose project `birds` has six images each of red, yellow and blue."""
    for colour in ("red", "yellow", "blue"):
        upload(birds, f"/labels/{colour}/support", *(png(colour, n) for n in range(6)))
    return birds
