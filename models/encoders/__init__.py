"""Encoders: images in, unit-length embeddings out."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Protocol, get_type_hints, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.images import Preprocessing
from models.registry import Registry

# TensorFloat-32 has ten bits, too few for the shallow stages of EfficientNet-Lite0.
torch.backends.cudnn.allow_tf32 = False


class EncoderUnavailable(ValueError):
    """The encoder cannot be had here; the message says why in one sentence."""


class Encoder(nn.Module):
    """A stack of stages, shallow to deep, ending in one vector per image.

    Normalisation lives inside, so weights and preprocessing cannot drift apart.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, stages: Sequence[nn.Module], *, embedding_dim: int, preprocessing: Preprocessing
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.embedding_dim = embedding_dim
        self.preprocessing = preprocessing
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Embed images with values in 0..1."""
        return F.normalize(self.features(images), dim=1)

    def features(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """What embeddings are before they are scaled to unit length."""
        features = self.normalised(images)
        for stage in self.stages:
            features = stage(features)
        return features.flatten(1)

    def normalised(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        """What the first stage gets: channels of the mean and deviation it was trained with."""
        return (images - self.mean) / self.std

    @torch.inference_mode()
    def embed(self, pixels: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Embed decoded images on the encoder's device, in float32."""
        images = pixels.to(self.mean.device, torch.float32, memory_format=torch.channels_last) / 255
        embeddings: Tensor = self(images)
        return embeddings.cpu()


def is_transformer(encoder: Encoder) -> bool:
    """Whether an encoder attends."""
    return any("Attention" in type(module).__name__ for module in encoder.modules())


@runtime_checkable
class Architecture(Protocol):
    """The options of one architecture."""

    def build(self, *, pretrained: bool = True) -> Encoder:
        """A new encoder; without `pretrained`, its weights will be loaded by the caller.

        Raises:
            EncoderUnavailable: the pretrained weights cannot be had here.
        """
        ...


architectures: Registry[type[Architecture]] = Registry(__name__)


def parse(spec: str) -> tuple[str, Architecture]:
    """The architecture that a setting names: `name[:first][,option=value...][@weights]`.

    `efficientnet_lite:0`, `timm:resnet18.a1_in1k`, `timm:resnet18@weights.safetensors`,
    `conv4:32,image_side=64`. What stands after the name alone is the first option of the
    architecture; of one that changes another encoder, `base`, it is that encoder.

    Raises:
        EncoderUnavailable: there is no such architecture, or it refuses the options.
    """
    name, *_ = re.split("[:,@]", spec.strip(), maxsplit=1)
    if name not in architectures:
        raise EncoderUnavailable(
            f"there is no encoder {name!r}; known are {', '.join(architectures)}"
        )
    plugin = architectures[name]
    try:
        return name, plugin(**_options(plugin, spec.strip().removeprefix(name)))
    except (ValueError, TypeError) as error:
        raise EncoderUnavailable(f"encoder {spec!r} cannot be used: {error}") from error


def spec(architecture: Architecture, name: str) -> str:
    """The setting that names an architecture: the inverse of `parse`."""
    first, *others = fields(architecture)  # type: ignore[arg-type]
    weights = getattr(architecture, "weights", None)
    return (
        f"{name}:{getattr(architecture, first.name)}"
        + "".join(
            f",{option.name}={value}"
            for option in others
            if option.name != "weights"
            and (value := getattr(architecture, option.name)) != option.default
        )
        + (f"@{weights}" if weights else "")
    )


def _options(plugin: type[Architecture], given: str) -> dict[str, object]:
    """What a setting says behind the name of an architecture."""
    first, *_ = names = [option.name for option in fields(plugin)]  # type: ignore[arg-type]
    if first == "base":
        return {"base": given.removeprefix(":")} if given else {}
    values, _, weights = given.partition("@")
    options: dict[str, object] = {"weights": weights} if weights else {}
    for part in filter(None, values.removeprefix(":").split(",")):
        option, equals, value = part.partition("=")
        if not equals:
            option, value = first, part
        if option not in names:
            raise ValueError(f"it has no option {option!r}, only {', '.join(names)}")
        options[option] = int(value) if get_type_hints(plugin)[option] is not str else value
    return options


def pick_device(setting: str) -> torch.device:
    """The device that a setting names; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        EncoderUnavailable: the device is not there.
    """
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise EncoderUnavailable(
            f"there is no device {setting!r}; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= there:
        raise EncoderUnavailable(
            f"device {setting!r} is not there: {there} {device.type} device(s) found; "
            "use auto or cpu"
        )
    return device
