"""cleanlab on our embeddings and labels; runs in the peers' environment."""

import time
from typing import Any

from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from bench.peers.exchange import serve

BY = "normalized_margin"


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Label quality by its own recipe, timed, and of the probabilities that came along."""
    vectors, targets, ours = (question[k] for k in ("vectors", "targets", "probabilities"))
    started = time.perf_counter()
    regression = LogisticRegression(max_iter=400)
    theirs = cross_val_predict(regression, vectors, targets, cv=5, method="predict_proba")
    find_label_issues(targets, theirs, return_indices_ranked_by=BY, n_jobs=1)
    scores = get_label_quality_scores(targets, theirs, method=BY)
    return {
        "seconds": time.perf_counter() - started,
        "cleanlab": scores,
        "cleanlab on ours": get_label_quality_scores(targets, ours, method=BY),
    }


if __name__ == "__main__":
    serve(answer)
