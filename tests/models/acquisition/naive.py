"""Methods as their papers write them: everything at once, in float64."""

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(count: int, dimensions: int, seed: int = 0) -> Tensor:
    """Random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dimensions, generator=generator), dim=1)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean, of every pair."""
    return (first.double()[:, None] - second.double()[None]).norm(dim=2)


def herding(
    pool: Tensor, covered: Tensor, budget: int, sigma: float = 1.0, weights: Tensor | None = None
) -> tuple[list[int], Tensor]:
    """Greedy (weighted) herding with a Gaussian kernel: the picks, and what each added."""
    return facility(
        (-(distances(pool, pool) ** 2) / sigma**2).exp(),
        (-(distances(pool, covered) ** 2) / sigma**2).exp(),
        budget,
        weights,
    )


def facility(
    kernel: Tensor, reached: Tensor, budget: int, weights: Tensor | None = None
) -> tuple[list[int], Tensor]:
    """Greedy facility location on a whole kernel; the first of equals."""
    best = reached.amax(dim=1) if reached.shape[1] else torch.zeros(len(kernel)).double()
    weights = torch.ones(len(kernel)).double() if weights is None else weights.double()
    picks: list[int] = []
    gains: list[float] = []
    for _ in range(budget):
        gain = ((kernel - best).clamp_min(0) * weights).mean(dim=1)
        gain[picks] = -1
        picks.append(int((gain > gain.max() - 1e-12).int().argmax()))
        gains.append(float(gain[picks[-1]]))
        best = torch.maximum(best, kernel[picks[-1]])
    return picks, torch.tensor(gains).double()


def k_center(pool: Tensor, covered: Tensor, budget: int) -> tuple[list[int], Tensor]:
    """The farthest image, again and again: the picks, and their distances."""
    between = distances(pool, pool)
    nearest = distances(pool, covered).amin(dim=1)
    picks: list[int] = []
    scores: list[float] = []
    for _ in range(budget):
        picks.append(int(nearest.argmax()))
        scores.append(float(nearest[picks[-1]]))
        nearest = torch.minimum(nearest, between[picks[-1]])
    return picks, torch.tensor(scores).double()


def classify(embeddings: Tensor, *, classes: int = 4, temperature: float = 0.1) -> Tensor:
    """Nearest of the first axes."""
    return (embeddings[:, :classes] / temperature).softmax(dim=1)


def margins(probabilities: Tensor) -> Tensor:
    """1 - the gap between the two likeliest, in float64."""
    first, second = probabilities.double().topk(2, dim=1).values.unbind(dim=1)
    return 1 - first + second


def whole_gradients(points: Tensor) -> Tensor:
    """The N x C x D array of last-layer gradients, flattened, that no strategy builds."""
    probabilities = classify(points).double()
    likeliest = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
    return ((probabilities - likeliest)[:, :, None] * points.double()[:, None, :]).flatten(1)
