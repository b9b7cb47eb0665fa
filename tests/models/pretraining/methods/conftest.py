"""Batches of two views, and what an objective makes of them."""

import torch
from torch import Generator, Tensor

from models.pretraining.contrastive import BatchContrast
from models.training.loop import Batch


def batch(*positions: int, seed: int = 0) -> Batch:
    generator = Generator().manual_seed(seed)
    views = [torch.rand(len(positions), 3, 48, 48, generator=generator) for _ in range(2)]
    return Batch(views, torch.tensor(positions), torch.zeros(len(positions), 0))


def unit_projections(objective: BatchContrast, sample: Batch) -> list[Tensor]:
    """Of all first views, then of all second ones."""
    return [
        projection / projection.norm()
        for view in sample.views
        for projection in objective.head(objective.encoder.features(view)).detach()
    ]
