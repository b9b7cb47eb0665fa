"""Batches of scikit-activeml on our embeddings; runs in the peers' environment.

To compare picks where several are equally good, a peer is asked for one image at a time after each
of ours: ours agrees when it has the peer's highest utility.
"""

from functools import partial
from typing import Any

import numpy as np
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import Badge, CoreSet, MaxHerding, ProbCover, UncertaintySampling

from bench.figures import timed
from bench.peers.active import Classifier
from bench.peers.exchange import serve


class Answers(Classifier):
    """A classifier that has its answers for the first images already."""

    def __init__(self, answers: Any = None) -> None:
        self.answers = answers

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """The answers, in the order of the pool."""
        return self.answers[: len(X)]


def answer(question: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Agreement and seconds of each strategy."""
    x, y, head = _read(question["pool"])
    with_head = {"clf": head, "fit_clf": True}
    kernel = {"metric": "rbf", "metric_dict": {"gamma": 1.0}}
    result: dict[str, dict[str, float]] = {}
    for name, query, options in (
        ("margin", UncertaintySampling(method="margin_sampling", random_state=0), with_head),
        ("entropy", UncertaintySampling(method="entropy", random_state=0), with_head),
        ("coreset", CoreSet(random_state=0), {}),
        ("maxherding", MaxHerding(**kernel, random_state=0), {}),
        ("probcover", ProbCover(deltas=[0.9], random_state=0), {}),
    ):
        ours = question["picks"][name]
        ask = partial(query.query, X=x, y=y, return_utilities=True, **options)
        (picks, utilities), seconds = timed(partial(ask, batch_size=len(ours)))
        same = _agreement(query, x, y, ours, picks, utilities, options)
        result[name] = {"agreement": same, "seconds": seconds}
    x, y, head = _read(question["badge"])
    ask = partial(Badge(random_state=0).query, X=x, y=y, clf=head, fit_clf=True)
    result["badge"] = {"seconds": timed(partial(ask, batch_size=question["budget"]))[1]}
    return result


def _read(pool: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Embeddings, float64, labels or NaN, and a head that has our probabilities by heart."""
    x, probabilities = (pool[name].astype(np.float64) for name in ("vectors", "probabilities"))
    y = np.full(len(x), np.nan)
    y[pool["labeled"]] = pool["targets"]
    classes = list(range(probabilities.shape[1]))
    return x, y, SklearnClassifier(Answers(probabilities), classes=classes)


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
