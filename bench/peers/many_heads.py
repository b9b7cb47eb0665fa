"""Heads of easyfsl and scikit-learn on given draws; runs in the peers' environment."""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easyfsl.methods import Finetune, PrototypicalNetworks, SimpleShot
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

Head = Callable[[Any, Any, int], Callable[[Any], Any]]


def main() -> None:
    """Write class probabilities of each head on a share of the draws, and how long it took."""
    folder, slow = Path(sys.argv[1]), sys.argv[2] == "full"
    share, of = int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("ignore")  # of too few members of a class, and of convergence
    torch.set_num_threads(1)
    answers: dict[str, Any] = {}
    times: dict[str, dict[int, float]] = {}
    loaded: dict[int, Any] = {}
    for number, draw in enumerate(json.loads((folder / "draws.json").read_text())):
        if number % of != share:
            continue
        if draw["data"] not in loaded:
            loaded[draw["data"]] = dict(np.load(folder / f"{draw['data']}.npz"))
        data = loaded[draw["data"]]
        support, queries = data["train"][draw["support"]], data["test"][draw["queries"]]
        targets = np.array(draw["targets"])
        for name, head in HEADS.items():
            if name == "scikit-learn LR, CV" and not slow:
                continue
            started = time.process_time()
            predict = head(support, targets, draw["ways"])
            answers[f"{name}/{number}"] = predict(queries).astype(np.float32)
            times.setdefault(name, {})[number] = time.process_time() - started
    np.savez(folder / f"answers-{share}.npz", **answers)
    (folder / f"times-{share}.json").write_text(json.dumps(times))


def _easyfsl(method: Any) -> Head:
    def fit(support: Any, targets: Any, ways: int) -> Callable[[Any], Any]:
        head = method(backbone=torch.nn.Identity(), use_softmax=True)
        head.process_support_set(torch.from_numpy(support), torch.from_numpy(targets))
        return lambda queries: head(torch.from_numpy(queries)).detach().numpy()

    return fit


def _lda(support: Any, targets: Any, ways: int) -> Callable[[Any], Any]:
    head = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    if len(targets) == ways:  # one shot each leaves no covariance; it is then the nearest shot
        return lambda queries: _softmax(queries @ support.T)
    head.fit(support, targets)
    return lambda queries: head.predict_proba(queries)


def _ridge(support: Any, targets: Any, ways: int) -> Callable[[Any], Any]:
    head = RidgeClassifierCV(np.logspace(-3, 3, 13)).fit(support, targets)

    def predict(queries: Any) -> Any:
        scores = head.decision_function(queries)
        return _softmax(scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1))

    return predict


def _regression(support: Any, targets: Any, ways: int) -> Callable[[Any], Any]:
    fewest = int(np.bincount(targets).min())
    if fewest < 2:
        return _ridge(support, targets, ways)
    folds = StratifiedKFold(min(fewest, 3))
    head = LogisticRegressionCV(Cs=[1, 10, 100], cv=folds, max_iter=300).fit(support, targets)
    return lambda queries: head.predict_proba(queries)


def _knn(support: Any, targets: Any, ways: int) -> Callable[[Any], Any]:
    number = min(5, len(targets))
    neighbours = KNeighborsClassifier(number, weights="distance", metric="cosine")
    neighbours.fit(support, targets)
    return lambda queries: neighbours.predict_proba(queries)


def _softmax(scores: Any) -> Any:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


HEADS: dict[str, Head] = {
    "easyfsl PrototypicalNetworks": _easyfsl(PrototypicalNetworks),
    "easyfsl SimpleShot": _easyfsl(SimpleShot),
    "easyfsl Finetune": _easyfsl(Finetune),
    "scikit-learn LDA, shrinkage=auto": _lda,
    "scikit-learn ridge": _ridge,
    "scikit-learn LR, CV": _regression,
    "scikit-learn kNN, k=5": _knn,
}

if __name__ == "__main__":
    main()
