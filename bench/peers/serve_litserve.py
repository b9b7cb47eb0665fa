"""LitServe as its documentation advises: batches, a worker for each core."""

import os
import sys
from typing import Any

import litserve
import torch
from classifier import Classifier
from fastapi import Request
from torch import Tensor

BATCH = 8


class Service(litserve.LitAPI):  # type: ignore[misc]
    """One worker."""

    def setup(self, device: str) -> None:
        """Load what a worker needs."""
        torch.set_num_threads(1)
        self.classifier = Classifier()

    def decode_request(self, request: Request) -> Tensor:
        """A photo, out of a form."""
        image: Tensor = self.classifier.decode(request["photo"].file.read())
        return image

    def batch(self, inputs: list[Tensor]) -> Tensor:
        """What is computed at once."""
        return torch.stack(inputs)

    def predict(self, batch: Tensor) -> list[dict[str, Any]]:
        """Answers."""
        answers: list[dict[str, Any]] = self.classifier.classify(batch)
        return answers

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """An answer for each."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """What is sent."""
        return output


if __name__ == "__main__":
    service = Service(max_batch_size=BATCH, batch_timeout=0.002, api_path="/classify")
    server = litserve.LitServer(
        service, accelerator="cpu", workers_per_device=os.cpu_count() or 1, timeout=300
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
