"""Strategies of scikit-activeml that answer questions; runs in the peers' environment.

A question is a line of JSON and the arrays beside it, an answer the places of the chosen images.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import (
    Badge,
    Clue,
    ContrastiveAL,
    CoreSet,
    DropQuery,
    Falcun,
    MaxHerding,
    ProbCover,
    TypiClust,
    UncertaintySampling,
)
from sklearn.base import BaseEstimator, ClassifierMixin


class Centroids(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Our head: the softmax of cosines to given centroids."""

    def __init__(self, centroids: Any = None, temperature: float = 1.0) -> None:
        self.centroids = centroids
        self.temperature = temperature

    def fit(self, X: Any, y: Any) -> "Centroids":  # noqa: N803
        """Remember the classes."""
        self.classes_ = np.arange(len(self.centroids))
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """The likeliest classes."""
        return self.predict_proba(X).argmax(axis=1)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Probabilities of unit vectors, or of what dropout made of them."""
        lengths = np.linalg.norm(X, axis=1, keepdims=True)
        logits = X @ self.centroids.T / np.maximum(lengths, 1e-12) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


def main() -> None:
    """Answer until there are no more questions."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        with np.load(folder / "question.npz") as data:
            vectors = data["vectors"].astype(np.float64)
            centroids, targets = data["centroids"].astype(np.float64), data["targets"]
        y = np.full(len(vectors), np.nan)
        y[len(vectors) - len(targets) :] = targets
        head = SklearnClassifier(
            Centroids(centroids, asked["temperature"]), classes=list(range(len(centroids)))
        )
        query, given = _strategy(asked["strategy"], asked["seed"], len(centroids), head)
        picks = query.query(X=vectors, y=y, batch_size=asked["budget"], **given)
        print(json.dumps([int(place) for place in picks]), flush=True)


def _strategy(name: str, seed: int, classes: int, head: Any) -> tuple[Any, dict[str, Any]]:
    """A strategy with its defaults, and what its query needs besides."""
    with_head = {"clf": head, "fit_clf": True}
    return {
        "least_confident": (_uncertain("least_confident", seed), with_head),
        "margin": (_uncertain("margin_sampling", seed), with_head),
        "entropy": (_uncertain("entropy", seed), with_head),
        "coreset": (CoreSet(random_state=seed), {}),
        "typiclust": (TypiClust(random_state=seed), {}),
        "probcover": (ProbCover(n_classes=classes, random_state=seed), {}),
        "maxherding": (MaxHerding(random_state=seed), {}),
        "badge": (Badge(random_state=seed), with_head),
        "dropquery": (DropQuery(random_state=seed), with_head),
        "falcun": (Falcun(random_state=seed), with_head),
        "clue": (Clue(random_state=seed), {"estimator": head, "fit_estimator": True}),
        "contrastive": (ContrastiveAL(random_state=seed), with_head),
    }[name]


def _uncertain(method: str, seed: int) -> Any:
    return UncertaintySampling(method=method, random_state=seed)


if __name__ == "__main__":
    main()
