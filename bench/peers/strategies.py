"""Batches of scikit-activeml on our embeddings; runs in the peers' environment.

To compare picks where several are equally good, a peer is asked for one image at a time after each
of ours: ours agrees when it has the peer's highest utility.
"""

import time
from typing import Any

import numpy as np
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import Badge, CoreSet, MaxHerding, ProbCover, UncertaintySampling

from bench.peers.active import Classifier
from bench.peers.exchange import serve


class Columns(Classifier):
    """A classifier whose probabilities are the last columns of what it is asked about."""

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The last columns."""
        return X[:, -self.classes :]


class Answers(Classifier):
    """A classifier that has its answers for the first images already."""

    def __init__(self, answers: Any = None) -> None:
        self.answers = answers

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The answers, in the order of the pool."""
        return self.answers[: len(X)]


def answer(question: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Agreement and seconds of each strategy."""
    x, y, probabilities = _read(question["pool"])
    result: dict[str, dict[str, float]] = {}
    classes = list(range(probabilities.shape[1]))
    with_columns = np.concatenate([x, probabilities], axis=1)
    head = SklearnClassifier(Columns(len(classes)), classes=classes)
    kernel = {"metric": "rbf", "metric_dict": {"gamma": 1.0}}
    for name, query in {
        "margin": UncertaintySampling(method="margin_sampling", random_state=0),
        "entropy": UncertaintySampling(method="entropy", random_state=0),
        "coreset": CoreSet(random_state=0),
        "maxherding": MaxHerding(**kernel, random_state=0),
        "probcover": ProbCover(deltas=[0.9], random_state=0),
    }.items():
        uncertain = isinstance(query, UncertaintySampling)
        inputs, options = (with_columns, {"clf": head, "fit_clf": True}) if uncertain else (x, {})
        ours = question["picks"][name]
        start = time.perf_counter()
        picks, utilities = query.query(
            X=inputs, y=y, batch_size=len(ours), return_utilities=True, **options
        )
        seconds = time.perf_counter() - start
        same = _agreement(query, inputs, y, ours, picks, utilities, options)
        result[name] = {"agreement": same, "seconds": seconds}
    x, y, probabilities = _read(question["badge"])
    start = time.perf_counter()
    # Gradients are of embeddings, so the classifier has its answers by heart.
    head = SklearnClassifier(Answers(probabilities), classes=list(range(probabilities.shape[1])))
    Badge(random_state=0).query(X=x, y=y, clf=head, fit_clf=True, batch_size=question["budget"])
    result["badge"] = {"seconds": time.perf_counter() - start}
    return result


def _read(pool: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Embeddings, labels or NaN, and our probabilities of a pool; float64."""
    x = pool["vectors"].astype(np.float64)
    y = np.full(len(x), np.nan)
    y[pool["labeled"]] = pool["targets"]
    return x, y, pool["probabilities"].astype(np.float64)


def _agreement(
    query: Any, x: Any, y: Any, ours: list[int], picks: Any, utilities: Any, options: Any
) -> float:
    """The share of our picks that the peer would make, or that are as good to it."""
    if list(map(int, picks)) == ours:
        return 1.0
    labels, right = y.copy(), 0
    for step, pick in enumerate(ours):
        if step and not options:
            _, utilities = query.query(X=x, y=labels, batch_size=1, return_utilities=True)
        row = utilities[step] if options else utilities[0]
        best = np.nanmax(np.where(np.isnan(row), -np.inf, row))
        right += bool(row[pick] >= best - 1e-6 * max(abs(best), 1e-3))
        if not options:
            labels[pick] = 0
    return right / len(ours)


if __name__ == "__main__":
    serve(answer)
