"""TrivialAugment."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation.kinds import augmentations
from models.augmentation.operations import FOURTEEN, Scale, operate

LEVELS = 31  # strengths, from nothing to all of the range


TRANSLATION = 32  # pixels, whatever the side


WIDE: dict[str, Scale] = {
    "rotate": Scale(0.0, 135.0, signed=True),
    "solarize": Scale(256.0, 0.0),
    "posterize": Scale(8.0, 2.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), Scale(0.01, 2.0)),
    **dict.fromkeys(("shear-x", "shear-y"), Scale(0.0, 0.99, signed=True)),
}


@augmentations.register
@dataclass(frozen=True, kw_only=True)
class TrivialAugment:
    """Apply one random operation of a random strength, in wide ranges (Müller & Hutter, 2021).

    https://arxiv.org/abs/2103.10158
    """

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        count, side = len(images), images.shape[-1]
        numbers = torch.randint(len(FOURTEEN), (count,), generator=generator).tolist()
        levels = torch.randint(LEVELS, (count,), generator=generator).tolist()
        move = Scale(0.0, TRANSLATION / side, signed=True)
        return (
            operate(
                images,
                [FOURTEEN[number] for number in numbers],
                [level / (LEVELS - 1) for level in levels],
                WIDE | {"translate-x": move, "translate-y": move},
                generator,
            ),
            targets,
        )
