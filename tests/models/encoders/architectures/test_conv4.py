"""Conv-4."""

import pytest
import torch

from models.encoders.architectures.conv4 import Conv4


def test_the_seed_makes_the_weights_and_leaves_torch_s_own_alone():
    before = torch.random.get_rng_state()

    first, second, third = (
        Conv4(width=8).build(),
        Conv4(width=8).build(),
        Conv4(width=8, seed=1).build(),
    )

    weights = [encoder.state_dict()["stages.0.0.weight"] for encoder in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("options", [{"width": 0}, {"image_side": 8}, {"image_side": 4096}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be from"):
        Conv4(**options)
