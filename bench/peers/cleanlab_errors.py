"""cleanlab on given embeddings and labels; runs in the peers' environment, prints JSON."""

import json
import sys
import time

import numpy as np
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict


def main() -> None:
    """Label quality by its own recipe, timed, and of the probabilities that came along."""
    data = np.load(sys.argv[1])
    vectors, given, ours = data["vectors"], data["given"], data["probabilities"]
    started = time.perf_counter()
    own = cross_val_predict(
        LogisticRegression(max_iter=400), vectors, given, cv=5, method="predict_proba"
    )
    find_label_issues(given, own, return_indices_ranked_by="normalized_margin", n_jobs=1)
    scores = get_label_quality_scores(given, own, method="normalized_margin")
    seconds = time.perf_counter() - started
    answer = {
        "seconds": seconds,
        "scores": {
            "cleanlab": scores.tolist(),
            "cleanlab on ours": get_label_quality_scores(
                given, ours, method="normalized_margin"
            ).tolist(),
        },
        "joint": compute_confident_joint(given, ours, calibrate=False).tolist(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
