"""Scores of unknown images by scikit-learn on given draws; runs in the peers' environment."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM


def main() -> None:
    """Write how unlike the support of each draw the test images are."""
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")  # of convergence
    answers: dict[str, Any] = {}
    loaded: dict[int, Any] = {}
    for number, draw in enumerate(json.loads((folder / "draws.json").read_text())):
        if draw["data"] not in loaded:
            loaded[draw["data"]] = dict(np.load(folder / f"{draw['data']}.npz"))
        data = loaded[draw["data"]]
        support, targets = data["train"][draw["support"]], np.array(draw["targets"])
        for name, score in SCORES.items():
            answers[f"{name}/{number}"] = score(support, targets, data["test"])
    np.savez(folder / "answers.npz", **answers)


def _local_outlier_factor(support: Any, targets: Any, queries: Any) -> Any:
    number = min(20, len(support) - 1)
    return -LocalOutlierFactor(n_neighbors=number, novelty=True).fit(support).score_samples(queries)


def _one_class_svm(support: Any, targets: Any, queries: Any) -> Any:
    return -OneClassSVM().fit(support).score_samples(queries)


def _mahalanobis(support: Any, targets: Any, queries: Any) -> Any:
    """Least distance to a class mean under a shared covariance (Lee et al., 2018)."""
    means = np.stack([support[targets == c].mean(axis=0) for c in range(targets.max() + 1)])
    covariance = LedoitWolf(assume_centered=True).fit(support - means[targets])
    apart = queries[:, None] - means
    return np.einsum("qcd,de,qce->qc", apart, covariance.precision_, apart, optimize=True).min(1)


def _softmax(support: Any, targets: Any, queries: Any) -> Any:
    """One less the largest probability (Hendrycks and Gimpel, 2017)."""
    head = LogisticRegression(C=10, max_iter=300).fit(support, targets)
    return 1 - head.predict_proba(queries).max(axis=1)


SCORES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "scikit-learn LocalOutlierFactor": _local_outlier_factor,
    "scikit-learn OneClassSVM": _one_class_svm,
    "scikit-learn LedoitWolf, Mahalanobis": _mahalanobis,
    "scikit-learn LR, max softmax": _softmax,
}

if __name__ == "__main__":
    main()
