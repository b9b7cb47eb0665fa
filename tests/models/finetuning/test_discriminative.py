"""Discriminative fine-tuning."""

import pytest
import torch

from models.encoders import parse
from models.finetuning import start
from models.finetuning.discriminative import Discriminative
from models.training import Recipe

FAMILIES = {
    "conv4:8": 32,
    "efficientnet_lite:0": 64,
    "timm:resnet18.a1_in1k": 64,
    "timm:convnext_atto": 64,
    "timm:vit_tiny_patch16_224": 224,
    "timm:mobilenetv3_small_100": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize("spec", FAMILIES)
def test_the_optimizer_holds_a_rate_for_each_stage_after_steps(spec):
    side = FAMILIES[spec]
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    encoder = parse(spec)[1].build(pretrained=False)

    recipe = Recipe(epochs=1, batch_size=2)
    run = start(Discriminative(decay=0.5), encoder, images, torch.arange(4) % 2, recipe)
    rates = next(run.training).rates

    by_stage = [rate for name, rate in rates.items() if name.startswith("stage")]
    assert len(set(by_stage)) >= 4
    assert by_stage == sorted(by_stage)  # from shallow to deep
    assert rates["head"] > max(by_stage)


def test_rates_fall_by_the_factor_from_stage_to_stage():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    groups = Discriminative(decay=0.5).groups(encoder)

    assert sorted({group.rate for group in groups}) == [0.125, 0.25, 0.5, 1.0]


def test_without_decay_it_is_full_fine_tuning():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    assert {group.rate for group in Discriminative(decay=1.0).groups(encoder)} == {1.0}


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Discriminative(decay=decay)
