"""The head that does best on what is labeled."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from models.heads import CenteredHead, FittedHead, Support
from models.heads.kinds import heads

CANDIDATES = ("blend", "knn")  # in the order in which they are trusted


LEAD, TOTAL = 0.05, 8.0  # nats by which a later one must do better: for a shot, and for all of them


@heads.register
@dataclass(frozen=True, kw_only=True)
class Auto(CenteredHead):
    """Fit several heads and keep the one whose leave-one-out log loss is least.

    The first is kept unless another is clearly better. Where each label has one shot nothing can
    be left out; it is the first then.
    """

    def fit_support(self, support: Support) -> "FittedAuto":
        """Fit the candidates, each with its own choices; keep the best."""
        name, best = "", None
        losses: dict[str, float] = {}
        lead = max(LEAD, TOTAL / max(support.evidence, 1.0))
        for candidate in CANDIDATES:
            head: Any = heads[candidate]
            fitted = head(centered=self.centered).fit_support(support)
            losses |= {**fitted.losses, candidate: fitted.loss}
            if best is None or fitted.loss < best.loss - lead:
                name, best = candidate, fitted
        assert best is not None
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

    def leave_one_out_scores(
        self, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, "M C"]:
        """Those of the chosen head."""
        return self.best.leave_one_out_scores(embeddings, targets)
