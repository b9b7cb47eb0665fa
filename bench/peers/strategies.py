"""Batches of scikit-activeml on given embeddings; runs in the peers' environment, prints JSON.

To compare picks where several are equally good, a peer is asked for one image at a time after each
of ours: ours agrees when it has the peer's highest utility.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import (
    Badge,
    CoreSet,
    MaxHerding,
    ProbCover,
    UncertaintySampling,
)
from sklearn.base import BaseEstimator, ClassifierMixin


class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose probabilities are the last columns of what it is asked about."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def fit(self, X: Any, y: Any) -> "Given":  # noqa: N803
        """Remember the classes."""
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The last columns."""
        return X[:, -self.count :]


def main() -> None:
    """Agreement and seconds of each strategy."""
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    data = np.load(folder / "pool.npz")
    given_by_us = json.loads((folder / "ours.json").read_text())
    ours, budget = given_by_us["picks"], given_by_us["budget"]
    x, y, probabilities = _read(data, "pool")
    result: dict[str, dict[str, float]] = {}
    classes = probabilities.shape[1]
    both = np.concatenate([x, probabilities], axis=1)
    clf = SklearnClassifier(Given(count=classes), classes=list(range(classes)))
    for name, query, inputs, more in (
        ("margin", UncertaintySampling(method="margin_sampling", random_state=0), both, clf),
        ("entropy", UncertaintySampling(method="entropy", random_state=0), both, clf),
        ("coreset", CoreSet(random_state=0), x, None),
        (
            "maxherding",
            MaxHerding(metric="rbf", metric_dict={"gamma": 1.0}, random_state=0),
            x,
            None,
        ),
        ("probcover", ProbCover(deltas=[0.9], random_state=0), x, None),
    ):
        given = {"clf": more, "fit_clf": True} if more is not None else {}
        start = time.perf_counter()
        picks, utilities = query.query(
            X=inputs, y=y, batch_size=len(ours[name]), return_utilities=True, **given
        )
        seconds = time.perf_counter() - start
        same = _agreement(query, inputs, y, ours[name], picks, utilities, given)
        result[name] = {"agreement": same, "seconds": seconds}
    x, y, probabilities = _read(data, "badge")
    classes = probabilities.shape[1]
    start = time.perf_counter()
    # Gradients are of embeddings, so the classifier has its answers by heart.
    head = SklearnClassifier(Known(probabilities), classes=list(range(classes)))
    Badge(random_state=0).query(X=x, y=y, clf=head, fit_clf=True, batch_size=budget)
    result["badge"] = {"seconds": time.perf_counter() - start}
    print(json.dumps(result))


class Known(Given):
    """A classifier that has its answers for the first images already."""

    def __init__(self, answers: Any = None) -> None:
        self.answers = answers

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The answers, in the order of the pool."""
        return self.answers[: len(X)]


def _read(data: Any, prefix: str) -> tuple[Any, Any, Any]:
    """Embeddings, labels or NaN, and our probabilities of a pool; float64."""
    x = data[f"{prefix}_vectors"].astype(np.float64)
    y = np.full(len(x), np.nan)
    y[data[f"{prefix}_labeled"]] = data[f"{prefix}_targets"]
    return x, y, data[f"{prefix}_probabilities"].astype(np.float64)


def _agreement(
    query: Any, x: Any, y: Any, ours: list[int], picks: Any, utilities: Any, given: Any
) -> float:
    """The share of our picks that the peer would make, or that are as good to it."""
    if list(map(int, picks)) == ours:
        return 1.0
    labels, right = y.copy(), 0
    for step, pick in enumerate(ours):
        if step and not given:
            _, utilities = query.query(X=x, y=labels, batch_size=1, return_utilities=True)
        row = utilities[step] if given else utilities[0]
        best = np.nanmax(np.where(np.isnan(row), -np.inf, row))
        right += bool(row[pick] >= best - 1e-6 * max(abs(best), 1e-3))
        if not given:
            labels[pick] = 0
    return right / len(ours)


if __name__ == "__main__":
    main()
