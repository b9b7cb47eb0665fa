"""The best linear estimate, where classes and their images are Gaussian."""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.generation import Groups, Sizes, Target
from models.generation.generators import generators
from models.registry import require_within


@generators.register
@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """The expected mean of a class, where all is Gaussian with the covariance of the pool.

    That divides into B, of the means of groups, and W, within them; given the mean m of K shots it
    is B (B + W / K)^-1 m, the linear estimate of least squared error, to which an autoencoder of
    such data would come too.
    """

    ridge: float = 1e-2  # added to W, as a share of its mean variance

    def __post_init__(self) -> None:
        require_within(self, "ridge", 1e-6, 100)

    def target(self, sizes: Sizes) -> "LinearEstimate":
        return LinearEstimate(sizes.dim, self.ridge)

    def start(self, target: Target, groups: Groups, seed: int) -> None:
        cast(LinearEstimate, target).place(groups)


class LinearEstimate(Target):
    """B and W, so that both are diagonal: with W = L L', those of L^-1 B L^-T = U S U'."""

    unwhiten: Tensor  # L U
    whiten: Tensor  # U' L^-1
    variances: Tensor  # (D,), S

    def __init__(self, dim: int, ridge: float) -> None:
        super().__init__()
        self._ridge = ridge
        for name in ("unwhiten", "whiten"):
            self.register_buffer(name, torch.zeros(dim, dim))
        self.register_buffer("variances", torch.zeros(dim))

    def place(self, groups: Groups) -> None:
        """Divide the covariance of groups."""
        points = groups.points.double()
        sizes = torch.bincount(groups.groups).double()
        means = torch.zeros(len(sizes), points.shape[1], dtype=torch.float64)
        means = means.index_add_(0, groups.groups, points) / sizes[:, None]
        within = points - means[groups.groups]
        noise = within.T @ within / (sizes - 1).sum()
        noise += self._ridge * noise.diagonal().mean().clamp_min(1e-12) * torch.eye(len(noise))
        # What of the spread of group means is not due to the images that they have.
        centred = means - means.mean(dim=0)
        spread = centred.T @ centred / max(1, len(means) - 1) - noise * (1 / sizes).mean()
        factor = torch.linalg.cholesky(noise)
        whitened = torch.linalg.solve_triangular(factor, spread, upper=False)
        whitened = torch.linalg.solve_triangular(factor, whitened.T, upper=False)
        variances, basis = torch.linalg.eigh((whitened + whitened.T) / 2)
        self.variances.copy_(variances.clamp_min(0))
        self.unwhiten.copy_(factor @ basis)
        self.whiten.copy_(torch.linalg.solve_triangular(factor.T, basis, upper=True).T)

    def forward(
        self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]
    ) -> Float[Tensor, "C D"]:
        shares = self.variances / (self.variances + 1 / shots[:, None])
        return (means @ self.whiten.T * shares) @ self.unwhiten.T
