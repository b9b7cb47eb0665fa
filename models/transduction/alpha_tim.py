"""Transduction: prototypes that learn from the whole pool as well, by alpha-TIM on embeddings."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.heads import ROWS_PER_BLOCK, center_and_normalize, class_means
from models.heads.scatter import Scatter
from models.registry import require_within
from models.training.loop import Diverged

STEPS = 100  # at least, where the number of epochs is left open


STRENGTH = 1.0  # of shrinkage, as Kubokawa and Srivastava (2008) have it


@dataclass(frozen=True, kw_only=True)
class AlphaTim:
    """Mutual information of the pool's images and labels, with entropies that allow any shares.

    Veilleux et al. (2021), https://arxiv.org/abs/2204.11181. An alpha of 1 is TIM (Boudiaf et al.,
    2020, https://arxiv.org/abs/2008.11297), which draws labels towards equal shares.
    """

    alpha: float = 5.0  # order of the entropies; the higher, the less equal shares are favoured
    support_alpha: float = 1.0  # order of the cross entropy; 1: the usual one
    support_weight: float = 1.0  # of the cross entropy on the labeled images
    marginal_weight: float = 1.0  # of the entropy of the labels' shares, which rises
    conditional_weight: float = 1.0  # of the entropy of each image's label, which falls
    temperature: float = 0.03  # divides minus half the squared distances to the prototypes
    whitened: bool = True  # stretch directions in which images of one label differ less
    epochs: int = 0  # passes over the pool; 0: as many as make 100 steps
    batch_size: int = 4096  # images a step looks at; a smaller pool is looked at as a whole
    rate: float = 0.001  # of Adam
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alpha", "support_alpha"):
            require_within(self, name, 1, 20)
        for name in ("support_weight", "marginal_weight", "conditional_weight"):
            require_within(self, name, 0, 1000)
        require_within(self, "temperature", 1e-3, 100)
        require_within(self, "epochs", 0, 100_000)
        require_within(self, "batch_size", 16, 1 << 20)
        require_within(self, "rate", 1e-6, 1)
        require_within(self, "seed", 0, 2**31 - 1)


class Loss(NamedTuple):
    """The loss of a step and its parts."""

    total: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]
    marginal: Float[Tensor, ""]
    conditional: Float[Tensor, ""]


class TransductionEpoch(NamedTuple):
    """What one pass over the pool brought: means over its steps."""

    number: int  # from 1
    of: int
    loss: float
    cross_entropy: float  # of the labeled images
    marginal: float  # entropy of the shares of the labels
    conditional: float  # mean entropy of an image's label
    images: int
    seconds: float


def surprise(logs: Tensor, alpha: float) -> Tensor:
    """(1 - p^(alpha - 1)) / (alpha - 1), which is -log p for an alpha of 1; from log p."""
    return -logs if alpha == 1 else -torch.expm1((alpha - 1) * logs) / (alpha - 1)


def entropy(logs: Float[Tensor, "*B C"], alpha: float) -> Float[Tensor, "*B"]:
    """The mean surprise: (1 - sum_c p_c^alpha) / (alpha - 1) (Tsallis, 1988).

    https://doi.org/10.1007/BF01016429. Shannon's for an alpha of 1.
    """
    return (logs.exp() * surprise(logs, alpha)).sum(dim=-1)


def loss_of(
    options: AlphaTim,
    pool: Float[Tensor, "B C"],
    support: Float[Tensor, "K C"],
    targets: Int[Tensor, " K"],
) -> Loss:
    """The loss from log probabilities of unlabeled and of labeled images.

    With H_a(p) = (1 - sum_c p_c^a) / (a - 1) it is

        s mean_k (1 - p_k,y^(b - 1)) / (b - 1) - [m H_a(mean_i p_i) - n mean_i H_a(p_i)]

    where b is the order of the cross entropy, whose limit at 1 is -mean_k log p_k,y, and s, m and n
    are the weights; for m = n = 1 the bracket is the alpha mutual information of equation 8.
    """
    cross = surprise(support.gather(1, targets[:, None]), options.support_alpha).mean()
    marginal = entropy(pool.logsumexp(dim=0) - math.log(len(pool)), options.alpha)
    conditional = entropy(pool, options.alpha).mean()
    information = options.marginal_weight * marginal - options.conditional_weight * conditional
    return Loss(options.support_weight * cross - information, cross, marginal, conditional)


@dataclass(frozen=True)
class PartlyLabeled:
    """Labeled images and the pool.

    Raises:
        ValueError: the pool is empty, or a class has no shot.
    """

    embeddings: Float[Tensor, "M D"]  # of labeled and unlabeled images, float16 or float32
    unlabeled: Int[Tensor, " N"]  # rows of the pool
    labeled: Int[Tensor, " U"]  # rows of the support
    targets: Int[Tensor, " U"]  # the class of each of these, from 0 to `classes - 1`
    classes: int
    mean: Float[Tensor, " D"]  # of all embeddings; it is subtracted

    def __post_init__(self) -> None:
        if not len(self.unlabeled):
            raise ValueError("the pool is empty")
        shots = self.shots
        if len(shots) > self.classes or not bool(shots.all()):
            raise ValueError(
                f"each of the {self.classes} classes needs a shot, got {shots.tolist()}"
            )

    @property
    def shots(self) -> Int[Tensor, " C"]:
        return torch.bincount(self.targets, minlength=self.classes)


class Transduction(Iterator[TransductionEpoch]):
    """Learns a prototype of each class from labeled and unlabeled embeddings, an epoch at a time.

    p_ic is the softmax over the classes of -|x_i - w_c|^2 / (2 temperature). The w_c start at the
    means of the classes and follow Adam. Unless the pool is larger than a batch, each step sees all
    of it; a batch of a larger one stands for its shares of labels. Embeddings stay as they are
    given: each step, and each block of `scores`, makes its own float32. Deviating from the paper,
    vectors are whitened by the covariance within classes (shrunk as in the Mahalanobis head) and
    made unit vectors again, where a class has two shots.

    Everything that the next epoch depends on is in `state()`, as in a `Training`.
    """

    def __init__(self, images: PartlyLabeled, options: AlphaTim) -> None:
        self._images, self._options = images, options
        targets, shots = images.targets, images.shots
        self._whiten: _Whitening | None = None
        if options.whitened:
            self._whiten = _Whitening.of(self._normalize(images.labeled), targets, shots)
        normalized = self._normalize(images.labeled)
        self._prototypes = class_means(normalized, targets, shots).float().requires_grad_()
        self._optimizer = torch.optim.Adam([self._prototypes], lr=options.rate)
        self._generator = Generator().manual_seed(options.seed)
        self._steps = math.ceil(len(images.unlabeled) / options.batch_size)  # of an epoch
        self.epochs = options.epochs or math.ceil(STEPS / self._steps)
        self.epoch = 0  # finished

    def __next__(self) -> TransductionEpoch:
        if self.epoch >= self.epochs:
            raise StopIteration
        started = time.monotonic()
        unlabeled = self._images.unlabeled
        order = unlabeled[torch.randperm(len(unlabeled), generator=self._generator)]
        batches = order.tensor_split(self._steps)
        parts = torch.tensor([self._step(batch) for batch in batches], dtype=torch.float64)
        self.epoch += 1
        loss, cross, marginal, conditional = parts.mean(dim=0).tolist()
        return TransductionEpoch(
            self.epoch,
            self.epochs,
            loss,
            cross,
            marginal,
            conditional,
            len(unlabeled),
            time.monotonic() - started,
        )

    @torch.no_grad()
    def scores(self, rows: Int[Tensor, " Q"]) -> Float[Tensor, "Q C"]:
        """How well each class suits; differences within a row, by the temperature, are log odds."""
        blocks = torch.split(rows, ROWS_PER_BLOCK)
        return torch.cat([self._scores(block) for block in blocks])

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on: tensors and plain values, in nested dicts."""
        return {
            "prototypes": self._prototypes.detach(),
            "optimizer": self._optimizer.state_dict(),
            "chance": self._generator.get_state(),
            "epoch": self.epoch,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state of one with the same embeddings and options."""
        with torch.no_grad():
            self._prototypes.copy_(state["prototypes"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["chance"])
        self.epoch = state["epoch"]

    def _step(self, batch: Int[Tensor, " B"]) -> list[float]:
        rows = torch.arange(len(self._images.labeled))
        if len(rows) > self._options.batch_size:
            rows = torch.randperm(len(rows), generator=self._generator)[: self._options.batch_size]
        self._optimizer.zero_grad(set_to_none=True)
        pool, support = self._logs(batch), self._logs(self._images.labeled[rows])
        loss = loss_of(self._options, pool, support, self._images.targets[rows])
        values = [float(part.detach()) for part in loss]
        if not math.isfinite(values[0]):
            raise Diverged(self.epoch + 1, values[0])
        loss.total.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return values

    def _logs(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        return (self._scores(rows) / self._options.temperature).log_softmax(dim=1)

    def _scores(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B C"]:
        """Minus half the squared distances, less what is the same for all classes."""
        lengths = self._prototypes.square().sum(dim=1)
        return self._normalize(rows) @ self._prototypes.T - lengths / 2

    def _normalize(self, rows: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
        normalized = center_and_normalize(self._images.embeddings[rows], self._images.mean)
        return normalized if self._whiten is None else self._whiten(normalized)


class _Whitening(NamedTuple):
    """The inverse square root of the covariance within classes, up to a factor."""

    basis: Float[Tensor, "D E"]  # eigenvectors of the scatter within classes
    factors: Float[Tensor, " E"]  # what is added to a vector along each; from -1 to 0

    @classmethod
    def of(
        cls, normalized: Float[Tensor, "M D"], targets: Int[Tensor, " M"], shots: Int[Tensor, " C"]
    ) -> "_Whitening":
        scatter = Scatter.of(normalized, targets, class_means(normalized, targets, shots), shots)
        weight, added = scatter.covariance(STRENGTH)
        factors = (added / (weight * scatter.eigenvalues + added)).sqrt() - 1
        return cls(scatter.basis.float(), factors.float())

    def __call__(self, normalized: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return F.normalize(
            normalized + normalized @ self.basis * self.factors @ self.basis.T, dim=1
        )
