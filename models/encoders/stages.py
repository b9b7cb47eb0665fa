"""A network of timm as stages from shallow to deep."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

BODIES = ("blocks", "stages")


def split(net: nn.Module, side: int) -> tuple[list[nn.Module], int]:
    """Stages that together give what the network pools, and how many features that are.

    A network whose parts cannot be run one by one is one stage.

    Args:
        net: made without a classifier.
        side: of the images it is for, pixels.
    """
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = _Whole(net)(image).flatten(1)
        stages = _stages(net)
        if not _agree(stages, image, whole):
            stages = [_Whole(net)]
    return stages, whole.shape[1]


class _Whole(nn.Module):
    """The network in one piece, up to the pooled features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.net.forward_head(  # type: ignore[operator]
            self.net.forward_features(images),  # type: ignore[operator]
            pre_logits=True,
        )
        return features


class _Part(nn.Module):
    """Some modules of a network, run by the network's own methods."""

    def __init__(self, net: nn.Module, *names: str) -> None:
        super().__init__()
        part = copy.copy(net)  # shares the modules that are kept, and owns no others
        part._modules = {n: m if n in names else nn.Identity() for n, m in net._modules.items()}
        part._parameters = {n: p if n in names else None for n, p in net._parameters.items()}
        self.net: Any = part


class Tokens(_Part):
    """Patches to tokens with positions."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(
            net, "patch_embed", "cls_token", "reg_token", "pos_embed", "pos_drop", "patch_drop",
            "norm_pre",
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        net = self.net
        tokens: Tensor = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images))))
        return tokens


class Pooled(_Part):
    """The last norm and pooling."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, "norm", "attn_pool", "fc_norm", "head_drop", "norm_pre", "head")

    def forward(self, features: Tensor) -> Tensor:
        net = self.net
        if isinstance(getattr(net, "norm", None), nn.Module):  # transformers norm their tokens
            features = net.norm(features)
        elif isinstance(getattr(net, "norm_pre", None), nn.Module):
            features = net.norm_pre(features)
        pooled: Tensor = net.forward_head(features, pre_logits=True)
        return pooled


def _stages(net: Any) -> list[nn.Module]:
    """Stem, body and head of the usual families; empty when the network is built otherwise."""
    if hasattr(net, "layer1"):  # ResNets
        body = [layer for n in range(1, 5) if (layer := getattr(net, f"layer{n}", None))]
        return [_in_order(net, "conv1", "bn1", "act1", "maxpool"), *body, net.global_pool]
    blocks = next((list(getattr(net, name)) for name in BODIES if hasattr(net, name)), [])
    if hasattr(net, "conv_stem"):  # EfficientNets, MobileNets
        head = (
            _in_order(net, "conv_head", "bn2", "global_pool")
            if hasattr(net, "bn2")
            else _in_order(net, "global_pool", "conv_head", "norm_head", "act2")
        )
        return [_in_order(net, "conv_stem", "bn1"), *blocks, head]
    if hasattr(net, "_pos_embed"):  # vision transformers
        return [Tokens(net), *blocks, Pooled(net)]
    if hasattr(net, "stem"):  # ConvNeXts
        return [net.stem, *blocks, Pooled(net)]
    return []


def _in_order(net: nn.Module, *names: str) -> nn.Sequential:
    return nn.Sequential(*(m for n in names if isinstance(m := getattr(net, n, None), nn.Module)))


def _agree(stages: list[nn.Module], image: Tensor, whole: Tensor) -> bool:
    """Whether running the stages one by one gives what the network gives."""
    if not stages:
        return False
    features = image
    try:
        for stage in stages:
            features = stage(features)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError):
        return False
    flat = features.flatten(1)
    # Relative to the whole: with weights not loaded yet, features may be tiny.
    return flat.shape == whole.shape and bool((flat - whole).norm() <= 1e-3 * whole.norm())
