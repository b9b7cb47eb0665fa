"""Distances under the inverse of a shrunk scatter."""

import pytest
import torch

from models.heads.scatter import Scatter


def draw(shots, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    centres = torch.randn(len(shots), dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(targets), dim, generator=generator, dtype=torch.float64)
    return centres[targets] + noise, targets


def means_of(points, targets):
    return torch.stack([points[targets == c].mean(0) for c in range(int(targets.max()) + 1)])


def scatter_of(points, targets):
    return Scatter.of(points, targets, means_of(points, targets), torch.bincount(targets))


def inverse_of(points, targets, strength):
    """As the Mahalanobis head defines it, without shortcuts."""
    residuals = points - means_of(points, targets)[targets]
    within = residuals.T @ residuals
    freedom = len(points) - int(targets.max()) - 1
    ridge = strength * within.trace() / (len(points) - 1)
    return torch.linalg.inv(
        (within + ridge * torch.eye(points.shape[1], dtype=torch.float64)) / freedom
    )


@pytest.mark.parametrize("dim", [5, 40], ids=["many", "fewer-than-dimensions"])
def test_distances_without_an_image_are_those_of_the_others(dim):
    points, targets = draw([4, 6, 5], dim)
    scatter = scatter_of(points, targets)

    distances = scatter.downdated(scatter.rows(points, targets), 0.3)

    for i, target in enumerate(targets.tolist()):
        remaining = torch.arange(len(points)) != i
        inverse = inverse_of(points[remaining], targets[remaining], 0.3)
        offsets = points[i] - means_of(points[remaining], targets[remaining])
        squares = torch.einsum("cd,de,ce->c", offsets, inverse, offsets)
        squared = distances.length[i] - 2 * distances.scores[i]
        squared[target] = distances.to_own_class[i]
        assert torch.allclose(squared, squares, rtol=0, atol=1e-8)
