"""Networks in stages."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from models.encoders.stages import split


def transformer(**options) -> nn.Module:
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0, **options
    )


def residual() -> nn.Module:
    block: Any = BasicBlock  # a class, where timm's annotation says an instance of it
    return ResNet(block, (1, 1, 1, 1), num_classes=0, channels=(8, 8, 16, 16))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "class_token": (transformer, 4),
    "registers": (lambda: transformer(reg_tokens=2), 4),
    "mean": (lambda: transformer(global_pool="avg", fc_norm=True), 4),
    "attention": (lambda: transformer(global_pool="map"), 4),
    "resnet": (residual, 6),
    "convnext": (lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=0), 6),
    "mobilenet": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=0), 8),
    "efficientnet": (lambda: timm.create_model("efficientnet_lite0", num_classes=0), 9),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0]().eval()


class Plain(nn.Module):
    """A network of a family that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.first(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features.mean(dim=(2, 3))


class Skipping(Plain):
    """Has a stem and blocks as others have, and runs them in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 6, 3), nn.ModuleList([nn.Conv2d(6, 6, 1)])
        self.norm = nn.BatchNorm2d(6)

    def forward_features(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        return self.norm(stem + self.blocks[0](stem))


def pooled(net: Any, images: Tensor) -> Tensor:
    """What a network of timm pools, by methods that they all have and `nn.Module` has not."""
    return net.forward_head(net.forward_features(images), pre_logits=True).flatten(1)


def through(stages: list[nn.Module], images: Tensor) -> Tensor:
    for stage in stages:
        images = stage(images)
    return images.flatten(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_one_after_the_other_give_what_the_network_pools(name):
    net, images = network(name), torch.rand(2, 3, 32, 32)

    stages, dim = split(net, 32)

    with torch.no_grad():
        expected = pooled(net, images)
        features = through(stages, images)
    assert len(stages) == NETWORKS[name][1]
    assert expected.shape == (2, dim)
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_hold_every_parameter_of_the_network_once(name):
    net = network(name)

    stages, _ = split(net, 32)

    members = [id(p) for stage in stages for p in stage.parameters()]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("name", ["registers", "mean", "convnext"])
def test_copies_of_stages_share_nothing_with_the_network(name):
    net, images = network(name), torch.rand(2, 3, 32, 32)
    stages, _ = split(net, 32)

    copied = copy.deepcopy(nn.ModuleList(stages))
    with torch.no_grad():
        before = through(list(copied), images)
        for parameter in net.parameters():
            parameter.add_(1.0)

        assert torch.equal(through(list(copied), images), before)


@pytest.mark.parametrize("kind", [Plain, Skipping])
def test_a_network_whose_parts_cannot_be_run_one_by_one_is_one_stage(kind):
    net, images = kind().eval(), torch.rand(2, 3, 32, 32)

    stages, dim = split(net, 32)

    assert (len(stages), dim) == (1, 6)
    assert torch.equal(stages[0](images), net.forward_head(net.forward_features(images)))


def test_a_split_takes_none_of_the_chance_of_others_and_leaves_statistics():
    net = network("resnet")
    statistics, rng_state = net.get_buffer("bn1.running_mean").clone(), torch.random.get_rng_state()

    split(net, 32)

    assert torch.equal(torch.random.get_rng_state(), rng_state)
    assert torch.equal(net.get_buffer("bn1.running_mean"), statistics)
