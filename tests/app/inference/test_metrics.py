"""What is counted for `/metrics`."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.inference.embedder import RequestCancelled
from app.inference.metrics import InferenceMetrics
from tests.app.inference.conftest import VERSION


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> InferenceMetrics:
    return InferenceMetrics(registry)


def test_images_are_counted_by_outcome_and_stages_by_their_time(start, png, registry):
    embedder = start()
    embedder.embed(VERSION, [png("blue"), png("lime"), b"no image"])
    with pytest.raises(RequestCancelled):
        embedder.embed(VERSION, [png("red")], is_cancelled=lambda: True)
    with embedder.stage("post"):
        pass

    text = generate_latest(registry).decode()

    for outcome, images in {"embedded": 2, "failed": 1, "given_up": 1}.items():
        assert f'handful_images_total{{outcome="{outcome}"}} {images}.0' in text
    for stage, times in {"admit": 2, "decode": 3, "queue": 2, "post": 1}.items():
        assert f'handful_stage_seconds_count{{stage="{stage}"}} {times}.0' in text
    assert "handful_batch_images_sum 2.0" in text
    assert "handful_queue_images 0.0" in text
    assert "handful_queue_bytes 0.0" in text
