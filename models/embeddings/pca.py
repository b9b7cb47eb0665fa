"""Where images lie along the directions in which their embeddings vary most."""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_components(
    embeddings: Float[Tensor, "M D"], count: int
) -> tuple[Float[Tensor, "M K"], Float[Tensor, " K"]]:
    """Coordinates by principal component analysis, and each one's share of the variance.

    Pearson, 1901, https://doi.org/10.1080/14786440109462720. Directions are signed so that their
    largest weight is positive: the same images give the same picture.

    Raises:
        ValueError: fewer than two images.
    """
    if len(embeddings) < 2:
        raise ValueError(f"directions of variation need two images, got {len(embeddings)}")
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    leading = directions[:, -count:].flip(1)  # (D, K)
    largest = leading.gather(0, leading.abs().argmax(dim=0, keepdim=True))  # (1, K)
    shares = variances[-count:].flip(0).clamp_min(0) / variances.clamp_min(0).sum().clamp_min(1e-30)
    return (centred @ (leading * largest.sign())), shares


def spectrum(points: Float[Tensor, "M D"]) -> tuple[Float[Tensor, " E"], Float[Tensor, "D E"]]:
    """Eigenvalues and eigenvectors of the sum of x x' over all points.

    By the points' inner products where they are fewer than dimensions; then only those that are
    not 0.
    """
    if len(points) > points.shape[1]:
        eigenvalues, basis = torch.linalg.eigh(points.T @ points)
        return eigenvalues.clamp_min(0), basis
    eigenvalues, vectors = torch.linalg.eigh(points @ points.T)
    positive = eigenvalues > 1e-12 * len(points)
    eigenvalues = eigenvalues[positive]
    return eigenvalues, points.T @ (vectors[:, positive] / eigenvalues.sqrt())
