"""Heads of easyfsl and scikit-learn, and scores of unknown images; in the peers' environment."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from easyfsl.methods import Finetune, PrototypicalNetworks, SimpleShot
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.svm import OneClassSVM

from bench.peers.exchange import serve

Head = Callable[[Any, Any, Any], Any]  # of support, targets and queries


def answer(question: dict[str, Any]) -> dict[str, tuple[Any, float]]:
    """What each of some heads says of the queries, and the CPU-seconds that it took."""
    answers = {}
    vectors = [question[name] for name in ("support", "targets", "queries")]
    for name in question["heads"]:
        started = time.process_time()
        output = HEADS[name](*vectors)
        answers[name] = output, time.process_time() - started
    return answers


def _easyfsl(method: Any) -> Head:
    def probabilities(support: Any, targets: Any, queries: Any) -> Any:
        head = method(backbone=torch.nn.Identity(), use_softmax=True)
        head.process_support_set(torch.from_numpy(support), torch.from_numpy(targets))
        return head(torch.from_numpy(queries)).detach().numpy()

    return probabilities


def _lda(support: Any, targets: Any, queries: Any) -> Any:
    if len(targets) == targets.max() + 1:  # one shot each leaves no covariance: the nearest shot
        return _softmax(queries @ support.T)
    head = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return head.fit(support, targets).predict_proba(queries)


def _ridge(support: Any, targets: Any, queries: Any) -> Any:
    head = RidgeClassifierCV(np.logspace(-3, 3, 13)).fit(support, targets)
    scores = head.decision_function(queries)
    return _softmax(scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1))


def _regression_cv(support: Any, targets: Any, queries: Any) -> Any:
    fewest = int(np.bincount(targets).min())
    if fewest < 2:
        return _ridge(support, targets, queries)
    folds = StratifiedKFold(min(fewest, 3))
    head = LogisticRegressionCV(Cs=[1, 10, 100], cv=folds, max_iter=300)
    return head.fit(support, targets).predict_proba(queries)


def _knn(support: Any, targets: Any, queries: Any) -> Any:
    head = KNeighborsClassifier(min(5, len(targets)), weights="distance", metric="cosine")
    return head.fit(support, targets).predict_proba(queries)


def _softmax(scores: Any) -> Any:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def _local_outlier_factor(support: Any, targets: Any, queries: Any) -> Any:
    number = min(20, len(support) - 1)
    return -LocalOutlierFactor(n_neighbors=number, novelty=True).fit(support).score_samples(queries)


def _one_class_svm(support: Any, targets: Any, queries: Any) -> Any:
    return -OneClassSVM().fit(support).score_samples(queries)


def _mahalanobis(support: Any, targets: Any, queries: Any) -> Any:
    """Least distance to a class mean under a shared covariance (Lee et al., 2018)."""
    means = np.stack([support[targets == c].mean(axis=0) for c in range(targets.max() + 1)])
    covariance = LedoitWolf(assume_centered=True).fit(support - means[targets])
    return np.min([covariance.mahalanobis(queries - mean) for mean in means], axis=0)


def _max_softmax(support: Any, targets: Any, queries: Any) -> Any:
    """One less the largest probability (Hendrycks and Gimpel, 2017)."""
    head = LogisticRegression(C=10, max_iter=300).fit(support, targets)
    return 1 - head.predict_proba(queries).max(axis=1)


HEADS: dict[str, Head] = {
    "easyfsl PrototypicalNetworks": _easyfsl(PrototypicalNetworks),
    "easyfsl SimpleShot": _easyfsl(SimpleShot),
    "easyfsl Finetune": _easyfsl(Finetune),
    "scikit-learn LDA, shrinkage=auto": _lda,
    "scikit-learn ridge": _ridge,
    "scikit-learn LR, CV": _regression_cv,
    "scikit-learn kNN, k=5": _knn,
    "scikit-learn LocalOutlierFactor": _local_outlier_factor,
    "scikit-learn OneClassSVM": _one_class_svm,
    "scikit-learn LedoitWolf, Mahalanobis": _mahalanobis,
    "scikit-learn LR, max softmax": _max_softmax,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(answer)
