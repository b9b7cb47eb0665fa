"""Batches of two views, and what an objective makes of them."""

import torch
from torch import Generator, Tensor

from models.pretraining.contrastive import BatchContrast
from models.training.loop import Batch


def batch(count: int) -> Batch:
    generator = Generator().manual_seed(0)
    views = [torch.rand(count, 3, 48, 48, generator=generator) for _ in range(2)]
    return Batch(views, torch.arange(count), torch.zeros(count, 0))


def unit_projections(objective: BatchContrast, sample: Batch) -> list[Tensor]:
    """Of all first views, then of all second ones."""
    return [
        projection / projection.norm()
        for view in sample.views
        for projection in objective.head(objective.encoder.features(view)).detach()
    ]
