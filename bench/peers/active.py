"""Strategies of scikit-activeml; runs in the peers' environment."""

from typing import Any

import numpy as np
from skactiveml import pool
from skactiveml.classifier import SklearnClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from bench.peers.exchange import serve


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Knows its probabilities without learning."""

    def fit(self, X: Any, y: Any) -> "Classifier":  # noqa: N803
        """Remember the classes."""
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """The likeliest classes."""
        return self.predict_proba(X).argmax(axis=1)

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Class probabilities."""
        raise NotImplementedError


class Centroids(Classifier):
    """Our head: the softmax of cosines to centroids."""

    def __init__(self, centroids: Any = None, temperature: float = 1.0) -> None:
        self.centroids = centroids
        self.temperature = temperature

    def fit(self, X: Any, y: Any) -> "Centroids":  # noqa: N803
        """Remember the classes, all of them."""
        self.classes_ = np.arange(len(self.centroids))
        return self

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Probabilities of unit vectors, or of what dropout made of them."""
        lengths = np.linalg.norm(X, axis=1, keepdims=True)
        logits = X @ self.centroids.T / np.maximum(lengths, 1e-12) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True)


def answer(question: dict[str, Any]) -> list[int]:
    """The places of the images that a strategy chooses."""
    vectors, centroids = (question[k].astype(np.float64) for k in ("vectors", "centroids"))
    targets, classes = question["targets"], list(range(len(centroids)))
    y = np.full(len(vectors), np.nan)
    y[len(vectors) - len(targets) :] = targets
    head = SklearnClassifier(Centroids(centroids, question["temperature"]), classes=classes)
    query, options = _strategy(question["strategy"], question["seed"], len(classes), head)
    picks = query.query(X=vectors, y=y, batch_size=question["budget"], **options)
    return [int(place) for place in picks]


def _strategy(name: str, seed: int, classes: int, head: Any) -> tuple[Any, dict[str, Any]]:
    """A strategy with its defaults, and what its query needs besides."""
    with_head = {"clf": head, "fit_clf": True}
    uncertainty = {"least_confident": name, "margin": "margin_sampling", "entropy": name}
    if name in uncertainty:
        method = uncertainty[name]
        return pool.UncertaintySampling(method=method, random_state=seed), with_head
    return {
        "coreset": (pool.CoreSet(random_state=seed), {}),
        "typiclust": (pool.TypiClust(random_state=seed), {}),
        "probcover": (pool.ProbCover(n_classes=classes, random_state=seed), {}),
        "maxherding": (pool.MaxHerding(random_state=seed), {}),
        "badge": (pool.Badge(random_state=seed), with_head),
        "dropquery": (pool.DropQuery(random_state=seed), with_head),
        "falcun": (pool.Falcun(random_state=seed), with_head),
        "clue": (pool.Clue(random_state=seed), {"estimator": head, "fit_estimator": True}),
        "contrastive": (pool.ContrastiveAL(random_state=seed), with_head),
    }[name]


if __name__ == "__main__":
    serve(answer)
