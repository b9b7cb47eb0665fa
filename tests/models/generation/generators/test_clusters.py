"""Centres of groups."""

import pytest
import torch

from models.generation import Sizes
from models.generation.generators.clusters import Clusters
from tests.models.generation.conftest import made_up_groups


def test_a_low_temperature_says_the_closest_centre():
    groups, options = made_up_groups(noise=0.1), Clusters(temperature=1e-3)
    target = options.target(Sizes(8, 6, 72))

    options.start(target, groups, 0)

    for number in range(6):
        members = groups.points[groups.groups == number]
        said = target(members[:1], torch.ones(1).long())
        assert torch.allclose(said[0], members.mean(dim=0), atol=1e-5)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"temperature must be from 0\.001 to 100"):
        Clusters(temperature=0.0)
