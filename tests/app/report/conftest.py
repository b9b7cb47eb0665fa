"""A project of two colours on both databases, and what tests ask of its report."""

from xml.etree import ElementTree

import pytest

from tests import databases

CHARTS = ("learning-curve", "confusion", "map")


database_url = databases.each


def support(service, label, *contents):
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    answer = service.post(f"/v1/projects/birds/labels/{label}/support", files=files)
    return [image["id"] for image in answer.json()["images"]]


def report(service, **params):
    answer = service.get("/v1/projects/birds/report", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chart(service, name):
    answer = service.get(f"/v1/projects/birds/report/{name}.svg")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return ElementTree.fromstring(answer.text), answer.text


@pytest.fixture
def coloured(birds, png):
    """Twelve red and twelve blue support images, and the ids of the red ones."""
    red = support(birds, "red", *(png("red", n) for n in range(12)))
    support(birds, "blue", *(png("blue", n) for n in range(12)))
    return birds, red
