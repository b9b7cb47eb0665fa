"""The path of the tutorial, from the demo to a good classifier, in a real browser."""

import httpx
import pytest

from app.cli import demo
from docs.pictures import PROJECT, walk
from handful.client import Handful
from handful.folders import upload
from tests.app.web.test_web import browser, pytestmark, visit

EACH = 60  # images of a digit

__all__ = ["browser", "pytestmark", "visit"]  # fixtures, and the mark of all tests here


@pytest.fixture
def settings(settings):
    """With the encoder that is the default, and what computes it fastest as a rule."""
    return settings.model_copy(update={"encoder": "efficientnet_lite:0", "runtime": "openvino"})


@pytest.fixture
def digits(tmp_path):
    """A third of the demo's images: a path of as many keys, on which a third is computed."""
    folder = demo.write_digits(tmp_path / "digits")
    for label in folder.iterdir():
        for path in sorted(label.iterdir())[EACH:]:
            path.unlink()
    return folder


@pytest.mark.timeout(900)
def test_fewer_than_sixty_keys_lead_from_the_demo_to_nine_in_ten(visit, live_url, digits):
    with Handful(live_url) as client:
        client.create_project(PROJECT)
        upload(client, PROJECT, demo.choose(digits), lambda _: None)
        assert client.project(PROJECT).pool == 10 * (EACH - demo.SHOTS)

    walked = walk(visit(), live_url, digits)

    assert walked.before < 0.8
    assert walked.after > 0.88  # 0.90 and more as a rule, but what a grid draws is chance
    assert walked.keys < 60
    report = httpx.get(f"{live_url}/v1/projects/{PROJECT}/report").json()
    assert report["accuracy"]["value"] > 0.85
