"""The head that does best on what is labeled."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from models.heads import FittedHead, Placing, Support, heads

# In the order in which they are trusted where there is nothing to choose on.
CANDIDATES = ("mahalanobis", "ridge", "knn")


@heads.register
@dataclass(frozen=True, kw_only=True)
class Auto(Placing):
    """Fit several heads and keep the one whose leave-one-out log loss is least.

    Where each label has one shot nothing can be left out; it is `mahalanobis` then.
    """

    def learn(self, support: Support) -> "FittedAuto":
        """Fit the candidates, each with its own choices; keep the best."""
        fitted = {}
        for name in CANDIDATES:
            candidate: Any = heads[name]
            fitted[name] = candidate(centered=self.centered).learn(support)
        losses = {name: one.loss for name, one in fitted.items()}
        name = min(CANDIDATES, key=lambda one: math.inf if math.isnan(losses[one]) else losses[one])
        best = fitted[name]
        return FittedAuto(
            options=best.options,
            temperature=best.temperature,
            mean=best.mean,
            centroids=best.centroids,
            loss=best.loss,
            name=name,
            best=best,
            losses=losses,
        )


@dataclass(frozen=True, kw_only=True)
class FittedAuto(FittedHead):
    """The head that was chosen, whose options these are, and why."""

    name: str
    best: FittedHead

    def scores(self, queries: Float[Tensor, "Q D"]) -> Float[Tensor, "Q C"]:
        """Those of the chosen head."""
        return self.best.scores(queries)

    def scores_without(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Those of the chosen head."""
        return self.best.scores_without(embeddings, targets)
