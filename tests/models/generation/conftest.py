"""Groups of embeddings that are made up."""

import torch
from torch.nn import functional as F

from models.generation import Groups


def made_up_groups(count: int = 6, each: int = 12, dim: int = 8, noise: float = 0.5) -> Groups:
    """Around centres by chance."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count, dim, generator=generator)
    groups = torch.arange(count).repeat_interleave(each)
    points = centres[groups] + noise * torch.randn(count * each, dim, generator=generator)
    return Groups(F.normalize(points, dim=1), groups, 0)
