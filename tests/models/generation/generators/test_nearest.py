"""The nearest images."""

import pytest
import torch

from models.generation import Sizes
from models.generation.generators.nearest import Nearest
from tests.models.generation.conftest import made_up_groups


def test_it_is_the_mean_of_the_nearest_images():
    groups, options = made_up_groups(), Nearest(count=3)
    target = options.target(Sizes(8, 6, 72))
    options.start(target, groups, 0)

    said = target(groups.points[:1], torch.ones(1).long())[0]

    nearest = (groups.points @ groups.points[0]).topk(3).indices
    assert torch.allclose(said, groups.points[nearest].mean(dim=0), atol=1e-3)


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="count must be from 1 to 10000"):
        Nearest(count=0)
