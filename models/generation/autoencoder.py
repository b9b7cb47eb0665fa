"""A conditional variational autoencoder of embeddings, given the mean of others of their group."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from models.training.loop import Batch, Objective, ParameterGroup
from models.training.recipe import Recipe

SHOTS = (1, 2, 5)  # others whose mean is the condition, each as often
SLOTS = 10  # positions that the others of an image take up: what all of these divide
STEPS_AN_EPOCH = 100
USED = 0.01  # variance of the posterior mean from which on a latent number is used


class Bound(NamedTuple):
    """The evidence lower bound of each embedding: `-reconstruction - divergence`, in nats."""

    reconstruction: Float[Tensor, " B"]  # -log p(x | z, c), but for its constant
    divergence: Float[Tensor, " B"]  # of q(z | x, c) from p(z)


def divergence(mean: Float[Tensor, "B P"], log_variance: Float[Tensor, "B P"]) -> Tensor:
    """KL of N(m, v) from N(0, I): sum (m^2 + v - 1 - log v) / 2 (Kingma & Welling, 2014).

    https://arxiv.org/abs/1312.6114, appendix B. (B,)
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2


class Autoencoder(nn.Module):
    """q(z | x, c), and p(x | z, c) around c + d(z, c).

    Sohn et al., 2015, https://papers.nips.cc/paper/5775. Both last layers are zero before the
    training: then q is the prior, and what is generated lies at the condition.

    Args:
        dim: numbers of x and of c.
        noise: variance of p(x | z, c) in each direction.
        scale: of the numbers, to divide by.
    """

    noise: Tensor
    scale: Tensor

    def __init__(self, dim: int, width: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = _layers(2 * dim, width, 2 * latent)
        self.decoder = _layers(dim + latent, width, dim)
        self.register_buffer("noise", torch.ones(dim))
        self.register_buffer("scale", torch.ones(()))

    def encode(
        self, points: Float[Tensor, "B P"], conditions: Float[Tensor, "B P"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """The mean and the log variance of the posterior."""
        inputs = torch.cat([points - conditions, conditions], dim=1) / self.scale
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        return mean, log_variance

    def decode(
        self, latents: Float[Tensor, "B E"], conditions: Float[Tensor, "B P"]
    ) -> Float[Tensor, "B P"]:
        """The mean of what is generated."""
        inputs = torch.cat([latents, conditions / self.scale], dim=1)
        decoded: Tensor = conditions + self.scale * self.decoder(inputs)
        return decoded

    def bound(
        self,
        points: Float[Tensor, "B P"],
        conditions: Float[Tensor, "B P"],
        noise: Float[Tensor, "B E"],
    ) -> Bound:
        """Both parts of the bound, by one draw of the posterior.

        Args:
            noise: standard normal, of which the draw is made.
        """
        mean, log_variance = self.encode(points, conditions)
        decoded = self.decode(mean + (log_variance / 2).exp() * noise, conditions)
        squares = ((points - decoded).square() / self.noise).sum(dim=1) / 2
        return Bound(squares, divergence(mean, log_variance))

    @torch.no_grad()
    def used_latents(
        self, points: Float[Tensor, "B P"], conditions: Float[Tensor, "B P"]
    ) -> Int[Tensor, ""]:
        """How many latent numbers the posterior moves (Burda et al., 2016, section 5.2).

        https://arxiv.org/abs/1509.00519. None: it has collapsed onto the prior.
        """
        mean, _ = self.encode(points, conditions)
        used: Tensor = (mean.var(dim=0) > USED).sum()
        return used


class GroupMembers:
    """Points in groups, and draws of others of the group of a point."""

    def __init__(self, groups: Int[Tensor, " N"]) -> None:
        self._groups = groups
        self._sorted = groups.argsort(stable=True)
        self._sizes = torch.bincount(groups)
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._place = torch.empty_like(groups)
        self._place[self._sorted] = torch.arange(len(groups)) - self._starts[groups[self._sorted]]

    def others(
        self, rows: Int[Tensor, " B"], shots: Int[Tensor, " B"], generator: Generator
    ) -> Int[Tensor, "B K"]:
        """`SLOTS` positions of others of the groups of rows; each of so many as often.

        No position of a row is its own, and none of its `shots` is another of these.
        """
        groups = self._groups[rows]
        taken = self._place[rows][:, None]
        for _ in range(max(SHOTS)):
            free = self._sizes[groups] - taken.shape[1]
            places = (torch.rand(len(rows), generator=generator) * free).long()
            for before in taken.sort(dim=1).values.T:
                places = places + (places >= before).long()
            taken = torch.cat([taken, places[:, None]], dim=1)
        slots = torch.arange(SLOTS) % shots[:, None]
        return self._sorted[self._starts[groups][:, None] + taken.gather(1, slots + 1)]


class AutoencoderObjective(Objective):
    """Learns where an image of a group lies, by the mean of 1, 2 or 5 others of it.

    The steps are drawn as positions: a batch of images, and then the others of each.

    Args:
        groups: of each point; with more members than the most others.
        beta: weight of the divergence (Higgins et al., 2017).
    """

    def __init__(self, autoencoder: Autoencoder, groups: Int[Tensor, " N"], beta: float) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self._members = GroupMembers(groups)
        self._count = len(groups)
        self._beta = beta

    def order(
        self,
        images: int,
        targets: Int[Tensor, " N"] | None,
        recipe: Recipe,
        generator: Generator,
    ) -> Sequence[Int[Tensor, " B"]]:
        return [self._draw(recipe.batch_size, generator) for _ in range(STEPS_AN_EPOCH)]

    def _draw(self, count: int, generator: Generator) -> Int[Tensor, " B"]:
        rows = torch.randint(self._count, (count,), generator=generator)
        shots = torch.tensor(SHOTS)[torch.randint(len(SHOTS), (count,), generator=generator)]
        return torch.cat([rows, self._members.others(rows, shots, generator).flatten()])

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Minus the bound, by the mean over images."""
        (views,) = batch.views
        count = len(views) // (SLOTS + 1)
        points = views[:count]
        conditions = views[count:].view(count, SLOTS, -1).mean(dim=1)
        with torch.autocast(views.device.type, enabled=False):
            noise = torch.randn(count, self.autoencoder.latent, device=views.device)
            bound = self.autoencoder.bound(points, conditions, noise)
            loss: Tensor = (bound.reconstruction + self._beta * bound.divergence).mean()
            return loss

    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("autoencoder", list(self.autoencoder.parameters()), 1.0)]


def prior_draws(count: int, latent: int, seed: int) -> Float[Tensor, "R E"]:
    """Draws of the prior, each beside its opposite: the same whenever it is asked."""
    half = torch.randn(math.ceil(count / 2), latent, generator=Generator().manual_seed(seed))
    return torch.cat([half, -half])[:count]


def _layers(inputs: int, width: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), last)
