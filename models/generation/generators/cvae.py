"""The mean of what a conditional variational autoencoder generates."""

from dataclasses import dataclass
from math import ceil
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.embeddings.pca import spectrum
from models.generation import Groups, Sizes, Target
from models.generation.autoencoder import (
    STEPS_AN_EPOCH,
    Autoencoder,
    AutoencoderObjective,
    prior_draws,
)
from models.generation.generators import generators
from models.registry import require_within
from models.training.loop import Training
from models.training.recipe import Recipe

LEAST_NOISE = 1e-3  # of the mean variance


DRAWS_AT_A_TIME, CONDITIONS_AT_A_TIME = 1024, 64


@generators.register
@dataclass(frozen=True, kw_only=True)
class Cvae:
    """The mean of embeddings that a conditional variational autoencoder generates.

    Sohn et al., 2015, https://papers.nips.cc/paper/5775; for few shots Xu and Le, 2022,
    https://arxiv.org/abs/2205.02918, whose condition is a text. Here it is the mean of others of
    the class, so that any groups teach it: it learns where the rest lies, given a handful.
    """

    components: int = 128  # first principal directions of the groups, in which it works
    width: int = 256  # of its hidden layers
    latent: int = 32  # numbers that tell members of a group apart
    beta: float = 1.0  # weight of the divergence from the prior
    noise: float = 0.5  # variance around what is generated, as a share of all in a direction
    samples: int = 64  # embeddings generated for a class, by the same random numbers each time
    steps: int = 1500
    batch_size: int = 64
    rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("components", "width", "latent"):
            require_within(self, name, 1, 4096)
        require_within(self, "beta", 0, 1000)
        require_within(self, "noise", LEAST_NOISE, 10)
        require_within(self, "samples", 1, 1_000_000)
        require_within(self, "steps", 1, 1_000_000)
        require_within(self, "batch_size", 1, 65_536)
        require_within(self, "rate", 0, 1, exclusive=True)

    def target(self, sizes: Sizes) -> "GeneratedMean":
        return GeneratedMean(self, sizes.dim)

    def start(self, target: Target, groups: Groups, seed: int) -> Training:
        mean = cast(GeneratedMean, target)
        mean.place(groups.points, seed)
        recipe = Recipe(
            epochs=ceil(self.steps / STEPS_AN_EPOCH),
            batch_size=self.batch_size,
            rate=self.rate,
            schedule="cosine",
            weight_decay=0.0,
            clip_norm=0.0,
            seed=seed,
        )
        objective = AutoencoderObjective(mean.autoencoder, groups.groups, self.beta)
        return Training(objective, groups.points @ mean.basis, None, recipe)


class GeneratedMean(Target):
    """What is generated around a condition, averaged; outside the principal directions it stays.

    The same draws of the prior serve each class, each beside its opposite, so that it is a
    function of the condition alone (common random numbers).
    """

    basis: Tensor  # (D, P)
    draws: Tensor  # (R, E), of the prior

    def __init__(self, options: Cvae, dim: int) -> None:
        super().__init__()
        components = min(options.components, dim)
        self.autoencoder = Autoencoder(components, options.width, options.latent)
        self._noise = options.noise
        self.register_buffer("basis", torch.zeros(dim, components))
        self.register_buffer("draws", prior_draws(options.samples, options.latent, 0))

    def place(self, points: Float[Tensor, "N D"], seed: int) -> None:
        """Choose the directions in which it works, and how exactly it has to reconstruct."""
        eigenvalues, basis = spectrum(points)
        components = min(self.basis.shape[1], basis.shape[1])
        order = eigenvalues.argsort(descending=True)[:components]
        self.basis[:, :components] = basis[:, order]
        variances = (points @ self.basis).var(dim=0)
        mean_variance = variances.mean().clamp_min(1e-12)
        self.autoencoder.noise.copy_(
            (self._noise * variances).clamp_min(LEAST_NOISE * mean_variance)
        )
        self.autoencoder.scale.copy_(mean_variance.sqrt())
        self.draws.copy_(prior_draws(len(self.draws), self.autoencoder.latent, seed))

    def forward(
        self, means: Float[Tensor, "C D"], shots: Int[Tensor, " C"]
    ) -> Float[Tensor, "C D"]:
        conditions = means @ self.basis  # (C, P)
        return means + (self._decoded_means(conditions) - conditions) @ self.basis.T

    def generate(self, mean: Float[Tensor, " D"]) -> Float[Tensor, "R D"]:
        """The embeddings generated for a class whose shots have a mean."""
        condition = (mean @ self.basis).expand(len(self.draws), -1)
        return mean + (self.autoencoder.decode(self.draws, condition) - condition) @ self.basis.T

    @torch.no_grad()
    def used_latents(self, groups: Groups) -> int:
        """How many latent numbers tell members of groups apart; none: the posterior collapsed."""
        points = groups.points @ self.basis
        sizes = torch.bincount(groups.groups)[:, None]
        centres = torch.zeros(groups.total, points.shape[1]).index_add_(0, groups.groups, points)
        return int(self.autoencoder.used_latents(points, (centres / sizes)[groups.groups]))

    def _decoded_means(self, conditions: Float[Tensor, "C P"]) -> Float[Tensor, "C P"]:
        """By blocks, so that few are held at a time whatever is asked for."""
        sums = torch.zeros_like(conditions)
        for draws in torch.split(self.draws, DRAWS_AT_A_TIME):
            for rows in torch.split(torch.arange(len(conditions)), CONDITIONS_AT_A_TIME):
                repeated = conditions[rows].repeat_interleave(len(draws), dim=0)
                decoded = self.autoencoder.decode(draws.repeat(len(rows), 1), repeated)
                sums[rows] += decoded.view(len(rows), len(draws), -1).sum(dim=1)
        return sums / len(self.draws)
