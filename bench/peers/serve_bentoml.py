"""BentoML as its documentation advises: adaptive batching, a worker for each core."""

import os
from pathlib import Path
from typing import Any

import bentoml
import torch
from classifier import Classifier


@bentoml.service(workers=os.cpu_count() or 1, traffic={"timeout": 300})
class Service:
    """One worker."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.classifier = Classifier()

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def classify(self, photos: list[Path]) -> list[dict[str, Any]]:
        """The labels of photos."""
        images = [self.classifier.decode(photo.read_bytes()) for photo in photos]
        answers: list[dict[str, Any]] = self.classifier.classify(torch.stack(images))
        return answers
