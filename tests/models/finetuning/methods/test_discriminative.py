"""Discriminative fine-tuning."""

import copy

import pytest
import torch

from models.encoders.specs import parse
from models.finetuning import embed_all, start
from models.finetuning.lora import merge
from models.finetuning.methods.discriminative import Discriminative, family_decay
from models.training.recipe import Recipe

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
    assert rates["head"] == max(by_stage)


def test_rates_fall_by_the_factor_from_stage_to_stage():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    groups = Discriminative(decay=0.5).groups(encoder, 20)

    assert sorted({group.rate for group in groups}) == [0.125, 0.25, 0.5, 1.0]


def test_without_decay_it_is_full_fine_tuning():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    assert {group.rate for group in Discriminative(decay=1.0).groups(encoder, 20)} == {1.0}


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Discriminative(decay=decay)


def test_a_lowest_rate_is_reached_in_equal_ratios():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    rates = sorted({group.rate for group in Discriminative(lowest=0.001).groups(encoder, 20)})

    assert rates == pytest.approx([0.001, 0.01, 0.1, 1.0])


def test_decays_to_compare_include_one_of_all_layers_alike():
    encoder = parse("conv4:8")[1].build(pretrained=False)

    variants = Discriminative(decay="auto", lora_rank=2).variants(encoder)

    assert Discriminative(decay=1.0, lora_rank=2) in variants
    assert all(isinstance(v, Discriminative) and v.lora_rank == 2 for v in variants)
    assert Discriminative().variants(encoder) == [Discriminative()]


@pytest.mark.parametrize(
    ("spec", "decay"),
    [
        ("efficientnet_lite:0", 0.95),
        ("timm:resnet18.a1_in1k", 0.95),
        ("timm:convnext_atto", 0.75),
        ("timm:vit_tiny_patch16_224", 0.7),
    ],
)
def test_each_family_has_its_decay(spec, decay):
    assert family_decay(parse(spec)[1].build(pretrained=False)) == decay


def test_with_few_shots_stages_join_from_deep_to_shallow():
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    encoder = parse("conv4:8")[1].build(pretrained=False)
    recipe = Recipe(epochs=4, batch_size=2)

    run = start(Discriminative(decay=1.0), encoder, images, torch.arange(8) % 2, recipe)
    first = copy.deepcopy(run.encoder.stages[0].state_dict())
    learning = []
    for epoch in run.training:
        learning.append(
            sum(rate > 0 for name, rate in epoch.rates.items() if "vectors" not in name)
        )
        if epoch.number == 1:
            unmoved = run.encoder.stages[0].state_dict()
            assert all(torch.equal(first[name], tensor) for name, tensor in unmoved.items())

    assert learning == sorted(learning)
    assert learning[0] < learning[-1] == 5  # four stages and the head
    assert not torch.equal(first["0.weight"], run.encoder.stages[0].state_dict()["0.weight"])


def test_with_many_shots_or_at_once_all_stages_learn_from_the_start():
    encoder = Discriminative().prepare(parse("conv4:8")[1].build(pretrained=False))

    many = Discriminative().groups(encoder, 20)
    few = Discriminative(unfreezing="at_once").groups(encoder, 5)

    assert {group.starts for group in [*many, *few]} == {0.0}


def test_low_rank_differences_learn_and_end_in_the_same_architecture():
    images = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    encoder = parse("timm:vit_tiny_patch16_224")[1].build(pretrained=False)
    method = Discriminative(lora_rank=2, unfreezing="at_once")

    run = start(method, encoder, images, torch.arange(4) % 2, Recipe(epochs=6, rate=1e-2))
    learning = sum(p.numel() for p in run.encoder.parameters() if p.requires_grad)
    list(run.training)
    trained = embed_all(run.encoder, images)
    merge(run.encoder)

    assert learning < 0.05 * sum(p.numel() for p in encoder.parameters())
    assert run.encoder.state_dict().keys() == encoder.state_dict().keys()
    assert torch.allclose(embed_all(run.encoder, images), trained, atol=1e-5)
    assert not torch.allclose(embed_all(encoder, images), trained, atol=1e-4)


def test_low_rank_is_refused_where_there_is_no_transformer():
    with pytest.raises(ValueError, match="transformers"):
        Discriminative(lora_rank=2).prepare(parse("conv4:8")[1].build(pretrained=False))
