"""Other few-shot heads on given embeddings; runs in the peers' environment, prints JSON."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from easyfsl.methods import PrototypicalNetworks, SimpleShot
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier


def main() -> None:
    """Accuracy in % of each head on each draw."""
    folder = Path(sys.argv[1])
    data = np.load(folder / "embeddings.npz")
    centre = data["train"].mean(0)
    centred = {name: _unit(data[name] - centre) for name in ("train", "test")}
    rows: dict[str, list[float]] = {}
    for support in json.loads((folder / "draws.json").read_text()):
        labels, truth = data["train_labels"][support], data["test_labels"]
        for name, vectors, predict in (
            ("easyfsl PrototypicalNetworks", data, _easyfsl(PrototypicalNetworks)),
            ("easyfsl SimpleShot", data, _easyfsl(SimpleShot)),
            ("easyfsl SimpleShot, centred", centred, _easyfsl(SimpleShot)),
            ("scikit-learn kNN, k=5, centred", centred, _knn),
            ("scikit-learn LR, C=10, centred", centred, _regression),
        ):
            predicted = predict(vectors["train"][support], labels, vectors["test"])
            rows.setdefault(name, []).append(100 * float((predicted == truth).mean()))
    print(json.dumps(rows))


def _unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _easyfsl(method: Any) -> Callable[[Any, Any, Any], Any]:
    def predict(support: Any, labels: Any, queries: Any) -> Any:
        head = method(backbone=torch.nn.Identity())
        head.process_support_set(torch.from_numpy(support), torch.from_numpy(labels))
        return head(torch.from_numpy(queries)).argmax(1).numpy()

    return predict


def _knn(support: Any, labels: Any, queries: Any) -> Any:
    neighbours = KNeighborsClassifier(n_neighbors=5, weights="distance", metric="cosine")
    return neighbours.fit(support, labels).predict(queries)


def _regression(support: Any, labels: Any, queries: Any) -> Any:
    return LogisticRegression(C=10, max_iter=2000).fit(support, labels).predict(queries)


if __name__ == "__main__":
    main()
