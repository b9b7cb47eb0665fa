"""AutoAugment."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation.kinds import augmentations
from models.augmentation.operations import SCALES, Scale, operate
from models.registry import require_within

Policy = Literal["imagenet", "cifar10", "svhn"]


Name = Literal[
    "identity", "autocontrast", "equalize", "invert", "rotate", "solarize", "posterize", "color",
    "contrast", "brightness", "sharpness", "shear-x", "shear-y", "translate-x", "translate-y",
]  # fmt: skip


# Operations that follow one another, each with its magnitude.
Chain = tuple[tuple[str, float], ...]


STRONGEST = 9  # the policies have ten evenly spaced levels, 0..9


STEPS = 2  # of a sub-policy


MOST = 100  # sub-policies


# Not from the weakest on: colour at level 0 is nearly grey, at 5 nearly as it is, at 9 garish.
FACTORS = dict.fromkeys(("color", "contrast", "brightness", "sharpness"), Scale(0.1, 1.9))


STILL = ("identity", 0.0)


@dataclass(frozen=True)
class Step:
    """One operation of a sub-policy."""

    operation: Name
    probability: float
    level: int  # 0..9; 0 also where the operation has no magnitude

    def __post_init__(self) -> None:
        if self.operation not in get_args(Name):
            raise ValueError(
                f"operation must be one of {', '.join(get_args(Name))}, got {self.operation!r}"
            )
        require_within(self, "probability", 0, 1)
        require_within(self, "level", 0, STRONGEST)


SubPolicy = tuple[Step, ...]  # two steps, of which the second follows the first


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class AutoAugment:
    """Apply one of the pairs of operations that a search found (Cubuk et al., 2019).

    The named policies are those of torchvision, with 25 pairs. Unlike there, factors of light and
    colour run from 0.1 to 1.9 without a sign, as in the paper, for which the search chose their
    levels. Another search may give its own pairs.

    https://arxiv.org/abs/1805.09501
    """

    policy: Policy | tuple[SubPolicy, ...] = "imagenet"  # the data set of the search, or its pairs

    def __post_init__(self) -> None:
        if isinstance(self.policy, str):
            return
        if not 1 <= len(self.policy) <= MOST:
            raise ValueError(f"policy must have 1 to {MOST} sub-policies, got {len(self.policy)}")
        for number, steps in enumerate(self.policy, start=1):
            if len(steps) != STEPS:
                raise ValueError(
                    f"a sub-policy must have {STEPS} steps, number {number} has {len(steps)}"
                )

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        return self.perform(images, self.draw(len(images), generator)), targets

    def draw(self, count: int, generator: Generator) -> list[Chain]:
        """What each of `count` images shall undergo; operations that change nothing are left out.

        As many numbers are drawn for any policy, so two policies can be compared on equal luck.
        """
        pairs = sub_policies(self.policy)
        rows = torch.rand(count, generator=generator).mul(len(pairs)).long()
        draws = torch.rand(count, STEPS, generator=generator).tolist()
        mirrored = (torch.rand(count, STEPS, generator=generator) < 0.5).tolist()
        return [
            tuple(
                (step.operation, _magnitude(step, flip))
                for step, number, flip in zip(pairs[row], numbers, flips, strict=True)
                if number < step.probability and step.operation != "identity"
            )
            for row, numbers, flips in zip(rows.tolist(), draws, mirrored, strict=True)
        ]

    def perform(
        self, images: Float[Tensor, "B 3 S S"], chains: Sequence[Chain]
    ) -> Float[Tensor, "B 3 S S"]:
        """Apply to each image its operations, one after the other."""
        plain = dict.fromkeys(get_args(Name), Scale(0.0, 1.0))  # strengths are magnitudes already
        for turn in range(STEPS):
            steps = [chain[turn] if turn < len(chain) else STILL for chain in chains]
            names, magnitudes = [name for name, _ in steps], [amount for _, amount in steps]
            images = operate(images, names, magnitudes, plain, Generator())
        return images


def sub_policies(policy: Policy | tuple[SubPolicy, ...]) -> list[SubPolicy]:
    """The pairs of steps that were found for a data set; pairs that are given stay as they are."""
    if not isinstance(policy, str):
        return list(policy)
    from torchvision import transforms

    pairs = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
    return [(_step(*first), _step(*second)) for first, second in pairs]


def _step(name: str, probability: float, level: int | None) -> Step:
    """A step as torchvision writes it, such as ("ShearX", 0.9, 4)."""
    return Step(cast(Name, re.sub("([XY])$", r"-\1", name).lower()), probability, level or 0)


def _magnitude(step: Step, mirrored: bool) -> float:
    scale = (SCALES | FACTORS).get(step.operation)
    return 0.0 if scale is None else scale.at(step.level / STRONGEST, mirrored=mirrored)
