"""What to augment with, and how well that did."""

import json
from dataclasses import asdict
from typing import Any, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from models.augmentation import Augmentation
from models.registry import plugin_name

Policy = tuple[Augmentation, ...]


class PolicyCandidate(NamedTuple):
    """What to augment with."""

    policy: Policy = ()  # of all classes
    per_class: tuple[tuple[int, Policy], ...] = ()  # of these classes instead


NOTHING = PolicyCandidate()


class PolicyScore(NamedTuple):
    """What heads made of images that they had not seen."""

    predicted: Int[Tensor, " M"]
    right: Float[Tensor, " M"]  # 1 where the prediction is
    likelihood: Float[Tensor, " M"]  # logarithm of the probability of the right class

    @property
    def score(self) -> float:
        """The mean log-likelihood: smoother than the accuracy, so it ranks with fewer images."""
        return float(self.likelihood.mean())

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def documents(policy: Policy) -> list[dict[str, Any]]:
    """A policy as plain JSON: the augmentations by name, with their options."""
    plain: list[dict[str, Any]] = json.loads(
        json.dumps(
            [
                {
                    "name": plugin_name(augmentation),
                    "options": asdict(augmentation),  # type: ignore[call-overload]
                }
                for augmentation in policy
            ]
        )
    )
    return plain


def describe(candidate: PolicyCandidate) -> str:
    """A text that only equal candidates share."""
    per_class = {str(label): documents(policy) for label, policy in candidate.per_class}
    return json.dumps([documents(candidate.policy), per_class], sort_keys=True)
