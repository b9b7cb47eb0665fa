"""Operations on images that learned and random augmentation policies choose from.

They work in 8 bits, as the policies were published; each image has its own magnitude.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor

# Images and the magnitude of each, in the unit that `operations` names, to images.
Operation = Callable[[UInt8[Tensor, "B 3 S S"], Float[Tensor, " B"]], UInt8[Tensor, "B 3 S S"]]


GREY = [128.0, 128.0, 128.0]  # what a move uncovers, as in the code of AutoAugment


def _kernel(name: str) -> Callable[..., Tensor]:
    """A kernel of torchvision, which is loaded by the first call: who serves needs none of it."""

    def call(*arguments: Any, **options: Any) -> Tensor:
        from torchvision.transforms.v2 import functional

        result: Tensor = getattr(functional, name)(*arguments, **options)
        return result

    return call


def _alike(kernel: Callable[[Tensor], Tensor]) -> Operation:
    """An operation without magnitude, on all images at once."""
    return lambda images, magnitudes: kernel(images)


def _each(kernel: Callable[[Tensor, float], Tensor]) -> Operation:
    """An operation whose kernel takes one magnitude, on one image after the other."""

    def operation(
        images: UInt8[Tensor, "B 3 S S"], magnitudes: Float[Tensor, " B"]
    ) -> UInt8[Tensor, "B 3 S S"]:
        pairs = zip(images, magnitudes.tolist(), strict=True)
        return torch.stack([kernel(image, magnitude) for image, magnitude in pairs])

    return operation


_rotate, _posterize = _kernel("rotate"), _kernel("posterize")


def _solarize(
    images: UInt8[Tensor, "B 3 S S"], thresholds: Float[Tensor, " B"]
) -> UInt8[Tensor, "B 3 S S"]:
    """Invert what is at least as bright as the threshold.

    The kernel of torchvision refuses 256, where nothing is inverted.
    """
    return torch.where(images < thresholds.view(-1, 1, 1, 1), images, 255 - images)


def _affine(
    image: Tensor, *, shear: Sequence[float] = (0.0, 0.0), shift: Sequence[int] = (0, 0)
) -> Tensor:
    """Shear about the upper left corner by slopes, as in AutoAugment, and shift by pixels."""
    degrees = [math.degrees(math.atan(slope)) for slope in shear]
    affine = _kernel("affine")
    return affine(image, 0.0, list(shift), scale=1.0, shear=degrees, fill=GREY, center=[0, 0])


operations: dict[str, Operation] = {
    # Without magnitude.
    "identity": _alike(lambda images: images),
    "autocontrast": _alike(_kernel("autocontrast")),
    "equalize": _alike(_kernel("equalize")),
    "invert": _alike(_kernel("invert")),
    # Degrees, counterclockwise.
    "rotate": _each(lambda image, degrees: _rotate(image, degrees, fill=GREY)),
    # The value, 0..256, from which on values are inverted.
    "solarize": _solarize,
    # Bits that are kept, rounded.
    "posterize": _each(lambda image, bits: _posterize(image, round(bits))),
    # Factors; 1 is the image as it is.
    "color": _each(_kernel("adjust_saturation")),
    "contrast": _each(_kernel("adjust_contrast")),
    "brightness": _each(_kernel("adjust_brightness")),
    "sharpness": _each(_kernel("adjust_sharpness")),
    # Slopes: a row moves left by this times its number, a column up.
    "shear-x": _each(lambda image, slope: _affine(image, shear=(slope, 0.0))),
    "shear-y": _each(lambda image, slope: _affine(image, shear=(0.0, slope))),
    # Shares of the side, rounded to pixels, to the right and down.
    "translate-x": _each(lambda i, share: _affine(i, shift=(round(share * i.shape[-1]), 0))),
    "translate-y": _each(lambda i, share: _affine(i, shift=(0, round(share * i.shape[-1])))),
}


# What RandAugment and TrivialAugment draw from: all but one of AutoAugment's, and nothing at all.
FOURTEEN = tuple(name for name in operations if name != "invert")


@dataclass(frozen=True)
class Scale:
    """The magnitudes of one operation at strengths from 0 to 1."""

    start: float
    end: float
    signed: bool = False  # the magnitude may lie as far on the other side of the start

    def at(self, strength: float, *, mirrored: bool = False) -> float:
        """The magnitude at a strength, on the other side of the start if it may be."""
        way = -1 if self.signed and mirrored else 1
        return self.start + way * strength * (self.end - self.start)


STILL = Scale(0.0, 0.0)


# The ranges of Cubuk et al., 2019, from the weakest change to the strongest, as in torchvision: 256
# and 8 bits change nothing, and a factor lies above or below 1. https://arxiv.org/abs/1805.09501
SCALES: dict[str, Scale] = {
    "rotate": Scale(0.0, 30.0, signed=True),
    "solarize": Scale(256.0, 0.0),
    "posterize": Scale(8.0, 4.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), Scale(1.0, 1.9, signed=True)),
    **dict.fromkeys(("shear-x", "shear-y"), Scale(0.0, 0.3, signed=True)),
    # 150 pixels of the 331 that AutoAugment trained with.
    **dict.fromkeys(("translate-x", "translate-y"), Scale(0.0, 150 / 331, signed=True)),
}


def operate(
    images: Float[Tensor, "B 3 S S"],
    names: Sequence[str],
    strengths: Sequence[float],
    scales: Mapping[str, Scale],
    generator: Generator,
) -> Float[Tensor, "B 3 S S"]:
    """Apply one operation to each image, with values in 0..1, which are rounded to 8 bits.

    Args:
        names: the operation of each image.
        strengths: from 0 to 1, one for each image.
        scales: what strengths mean; operations without magnitude need none.
        generator: draws the signs.
    """
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    magnitudes = torch.tensor(
        [
            scales.get(name, STILL).at(strength, mirrored=flip)
            for name, strength, flip in zip(names, strengths, mirrored.tolist(), strict=True)
        ]
    )
    pixels = (images * 255).round().to(torch.uint8)
    for operation in sorted(set(names)):
        members = torch.tensor([name == operation for name in names])
        pixels[members] = operations[operation](pixels[members], magnitudes[members])
    return pixels.float() / 255
