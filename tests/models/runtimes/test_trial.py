"""Whether a runtime agrees, and how fast it is."""

import copy

import pytest
import torch

from models.encoders.architectures.efficientnet_lite import EfficientNetLite
from models.runtimes.trial import AGREEMENT, agree, speed
from tests.models.runtimes.reference import RESOURCES, make_encoder, variant


@pytest.mark.slow
def test_the_samples_find_out_eight_bits():
    def eight_bits(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output.bfloat16().float()

    exact = EfficientNetLite().build().eval()
    rough = copy.deepcopy(exact).bfloat16().float()  # CPUs without bfloat16 are slow to imitate it
    for module in rough.modules():
        if not list(module.children()):
            module.register_forward_hook(eight_bits)

    assert agree(rough.embed, exact) < 0.999
    assert agree(exact.embed, exact) > AGREEMENT


def test_speed_is_in_images(clock):
    embed = variant(clock, late_s=0.1)().prepare(make_encoder(), RESOURCES)

    assert speed(embed, make_encoder(), 4) == pytest.approx(4 / 0.2)
