"""A policy for each class; no plug-in itself, because it is made of others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.augmentation import Augmentation, apply


@dataclass(frozen=True, kw_only=True)
class PerClassPolicies:
    """Augment each image by the policy of its class (Kirichenko et al., 2023).

    What helps most classes may hurt some, so these can have their own. An image belongs to the
    class that has the largest share of its target. Images of equal policies are processed
    together, so those that mix only mix these.

    https://arxiv.org/abs/2401.01764
    """

    policies: Mapping[int, Sequence[Augmentation]]  # by the column of the class in targets
    default: Sequence[Augmentation] = ()  # of all other classes

    def __post_init__(self) -> None:
        below = [label for label in self.policies if label < 0]
        if below:
            raise ValueError(f"classes are counted from 0, got policies for {below}")

    def __call__(
        self,
        images: Float[Tensor, "B 3 S S"],
        targets: Float[Tensor, "B C"],
        generator: Generator,
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B C"]]:
        policies = [list(self.default), *(list(policy) for policy in self.policies.values())]
        numbers = [
            policies.index(list(self.policies.get(label, self.default)))
            for label in targets.argmax(dim=1).tolist()
        ]
        images, shares = images.clone(), targets.clone()
        for number in sorted(set(numbers)):
            members = torch.tensor([number == n for n in numbers])
            images[members], shares[members] = apply(
                policies[number], images[members], targets[members], generator
            )
        return images, shares
