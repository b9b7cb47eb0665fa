"""Batches computed at once, each by one thread."""

from models.runtimes.streams import speed_of_streams
from tests.models.runtimes.reference import RESOURCES, make_encoder, variant


def test_speed_of_streams_is_that_of_all():
    embed = variant(late_s=0.02)().prepare(make_encoder(), RESOURCES)

    assert 4 / 0.2 < speed_of_streams(embed, make_encoder(), 4, 1) < 4 / 0.02
    assert 4 / 0.02 < speed_of_streams(embed, make_encoder(), 4, 4) < 4 * 4 / 0.02
