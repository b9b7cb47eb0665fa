"""Encoders: images in, unit-length embeddings out."""

import copy
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from models.images import Preprocessing

# TensorFloat-32 has ten bits, too few for the shallow stages of EfficientNet-Lite0.
torch.backends.cudnn.allow_tf32 = False


NORM_MOMENTUM = 0.1  # of statistics that start from nothing; some networks forget ten times slower


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


def trainable_copy(encoder: Encoder, *, fresh: bool) -> Encoder:
    """A copy of which all parameters learn, its channels last, which is faster to convolve.

    Args:
        fresh: the weights are random, so batch norms learn their statistics from nothing.
    """
    copied: Encoder = copy.deepcopy(encoder).requires_grad_(True)
    for module in copied.modules():
        if fresh and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = NORM_MOMENTUM
    return copied.to(memory_format=torch.channels_last)


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
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= available:
        raise EncoderUnavailable(
            f"device {setting!r} is not there: {available} {device.type} device(s) found; "
            "use auto or cpu"
        )
    return device
