"""Any image model of timm, with weights from the hub or from a local safetensors file."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from models.encoders import Encoder, EncoderUnavailable, architectures
from models.images import Preprocessing

BODIES = ("blocks", "stages")


@architectures.register
@dataclass(frozen=True, kw_only=True)
class Timm:
    """A model of timm by its name, such as `resnet18.a1_in1k`.

    Wightman, 2019. https://github.com/huggingface/pytorch-image-models
    """

    model: str = "resnet18.a1_in1k"
    weights: str | None = None  # a local safetensors file instead of the hub

    def __post_init__(self) -> None:
        if not timm.is_model(self.model.partition(".")[0]):
            raise ValueError(f"timm has no model {self.model!r}")

    def build(self, *, pretrained: bool = True) -> Encoder:
        net = self._network(pretrained)
        config: dict[str, Any] = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
        side = int(config["input_size"][-1])
        preprocessing = Preprocessing(
            resize=round(side / float(config["crop_pct"])),
            crop=side,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        )
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            whole = _Whole(net)(image).flatten(1)
            stages = _stages(net)
            if not _agree(stages, image, whole):
                stages = [_Whole(net)]
        return Encoder(stages, embedding_dim=whole.shape[1], preprocessing=preprocessing).eval()

    def _network(self, pretrained: bool) -> nn.Module:
        from_hub = pretrained and self.weights is None
        try:
            net: nn.Module = timm.create_model(self.model, pretrained=from_hub, num_classes=0)
        except Exception as error:
            # The hub's client raises whatever its network layer raised.
            reason = str(error).strip().partition("\n")[0]
            raise EncoderUnavailable(
                f"timm could not build {self.model!r} with weights from the hub ({reason}); "
                f"give a local file as timm:{self.model}@weights.safetensors"
            ) from error
        if pretrained and self.weights is not None:
            self._load(net, Path(self.weights))
        return net.eval()

    def _load(self, net: nn.Module, file: Path) -> None:
        try:
            weights = safetensors.torch.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise EncoderUnavailable(
                f"the weights file {file} cannot be read as safetensors: {error}"
            ) from error
        wanted = net.state_dict()
        missing = [name for name in wanted if name not in weights]
        misfit = [n for n in wanted if n in weights and weights[n].shape != wanted[n].shape]
        if missing or misfit:
            raise EncoderUnavailable(
                f"the weights file {file} does not fit {self.model!r}: {len(missing)} tensors "
                f"missing, {len(misfit)} of another shape, first {(missing + misfit)[0]!r}"
            )
        net.load_state_dict({name: weights[name] for name in wanted})


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


class _Tokens(_Part):
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


class _Pooled(_Part):
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
        return [_Tokens(net), *blocks, _Pooled(net)]
    if hasattr(net, "stem"):  # ConvNeXts
        return [net.stem, *blocks, _Pooled(net)]
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
