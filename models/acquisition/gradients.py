"""Gradients of a last layer, kept as their two factors: an N x C x D array never exists."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.acquisition import BLOCK_ROWS, Pool
from models.embeddings.clusters import draw_by_weight


class Gradients(NamedTuple):
    """Outer products of `errors` and `points`, one for each image."""

    errors: Float[Tensor, "N C"]  # probabilities, less 1 at the likeliest class
    points: Float[Tensor, "N D"]

    def norms(self) -> Float[Tensor, " N"]:
        """Squared lengths."""
        return (self.errors**2).sum(dim=1) * (self.points**2).sum(dim=1)

    def products(self, position: int) -> Float[Tensor, " N"]:
        """Inner products with one of them: <a x^T, b y^T> = <a, b> <x, y>."""
        return (self.errors @ self.errors[position]) * (self.points @ self.points[position])


def gradients(pool: Pool) -> Gradients:
    """The gradients of all images of a pool, if each had its likeliest label."""
    classify = pool.classify()
    blocks = torch.split(pool.rows, BLOCK_ROWS)
    return Gradients(
        torch.cat([_errors(classify(pool.embeddings[block].float())) for block in blocks]),
        torch.cat([pool.vectors(block) for block in blocks]),
    )


def lengths(pool: Pool) -> Float[Tensor, " N"]:
    """Squared lengths of the gradients of a pool, whose embeddings have unit length."""
    return pool.score(lambda probabilities: (_errors(probabilities) ** 2).sum(dim=1))


def kmeans_plus_plus_of_gradients(
    of: Gradients, count: int, generator: Generator
) -> tuple[Int[Tensor, " K"], Float[Tensor, " K"]]:
    """k-means++ from the longest gradient on: positions, and the squared distance each had."""
    norms = of.norms()
    distances = norms.clone()
    selected: list[int] = []
    scores: list[float] = []
    for number in range(min(count, len(norms))):
        position = (
            int(distances.argmax())
            if number == 0
            else draw_by_weight(distances, selected, generator)
        )
        selected.append(position)
        scores.append(float(distances[position]))
        to_latest = (norms + norms[position] - 2 * of.products(position)).clamp_min(0)
        if number == 0:
            distances = torch.full_like(norms, math.inf)
        # Below what float32 rounds, there is no distance.
        distances = torch.minimum(
            distances, to_latest.where(to_latest > 1e-6 * norms[position], 0.0)
        )
        distances[position] = 0
    return torch.tensor(selected, dtype=torch.long), torch.tensor(scores)


def _errors(probabilities: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    likeliest = F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1])
    return probabilities - likeliest
