"""Random sampling."""

import pytest
import torch

from models.acquisition import Pool
from models.acquisition.strategies.random import Random


def test_seeds_choose_differently_and_every_image_has_its_turn():
    pool = Pool(torch.rand(20, 2), torch.arange(20), None)

    batches = [tuple(Random(seed=seed).rank(pool, 5).indices.tolist()) for seed in range(40)]

    assert len(set(batches)) == 40
    assert {image for five in batches for image in five} == set(range(20))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_would_refuse_is_refused_at_once(seed):
    with pytest.raises(ValueError, match="seed"):
        Random(seed=seed)
