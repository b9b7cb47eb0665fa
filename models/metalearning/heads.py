"""Meta-learning of a head: a network learns to answer from embeddings that stay as they are."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from models.heads.network import (
    FOLDS,
    SCALE,
    Condensed,
    HeadNetwork,
    LinearNetwork,
    LowRankMap,
    class_shares,
    left_out_by_folds,
)
from models.metalearning import EpisodicObjective, in_full_precision, train_on_episodes
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.inner_loop import require_number
from models.training.loop import Training
from models.training.recipe import Recipe

NUMBERS = 1 << 22  # of directions and shots, in folds that are left out at once: 16 MB


@runtime_checkable
class HeadMethod(Protocol):
    """The options of one way to learn a head across episodes."""

    fewest_labels: ClassVar[int]  # with which it learns something that holds for others
    unsuited: ClassVar[str]  # when not to use it

    def network(self, dim: int) -> HeadNetwork:
        """The network that will learn, for embeddings of `dim` numbers."""
        ...


class SupportLoss(NamedTuple):
    """The cross entropy of a support, by a linear layer that corrects what prototypes say.

    Labels count alike: it is the sum over labels of the mean of their shots, so that a step of the
    row of a label does not depend on how many other labels and shots there are. Several layers are
    fitted at once, each to some of the shots.
    """

    features: Float[Tensor, "M P"]  # of the shots; the last is 1, for the offset
    shares: Float[Tensor, "R C M"]  # of the shots in the mean of their label; 0 of other labels
    closeness: Float[Tensor, "R M C"]  # what prototypes say

    def slope(
        self, layers: Float[Tensor, "R C P"], step: int
    ) -> tuple[Float[Tensor, "R C P"], Float[Tensor, " R"]]:
        """The gradients by the layers, which can be differentiated again, and the losses.

        Args:
            step: of the inner loop, from 1.

        Raises:
            InnerLoopDiverged: a loss is not a number.
        """
        log_odds = self.closeness + self.features @ layers.mT
        log_probabilities = log_odds.log_softmax(dim=2)
        losses = -(self.shares.mT * log_probabilities).sum(dim=(1, 2))
        require_number(losses.sum(), step)
        weights = self.shares.sum(dim=1)[..., None]  # of the shots, (R, M, 1)
        residuals = weights * log_probabilities.exp() - self.shares.mT
        return residuals.mT @ self.features, losses


class InnerLoopNetwork(LinearNetwork):
    """Prototypes, and a linear layer that some steps fit to the support, as they have learned to.

    `s (2 f(p) f(q) - |f(p)|^2) + g (W V q + b)`, with p the prototype of a label; learned are the
    map f(x) = x + U V x, s and g. The layer (W, b) is zero before the first step; U and g, by which
    the layer counts, are zero before the training, so that it starts as plain prototypes. In the
    loss of the support s is 1: with more, prototypes would be so sure of the shots of which they
    were made that there were nothing to learn from these.

    Args:
        width: features that V makes of an embedding.
        corrects: prototypes; otherwise the layer answers alone.
    """

    def __init__(self, dim: int, width: int, *, corrects: bool = True) -> None:
        super().__init__()
        self.map = LowRankMap(dim, width)
        nn.init.normal_(self.map.down.weight)  # of vectors of unit length
        self.corrects = corrects
        if corrects:
            self.log_scale = nn.Parameter(torch.tensor(SCALE).log())  # of squared distances
            self.gain = nn.Parameter(torch.zeros(()))

    @abstractmethod
    def solve(self, support: SupportLoss, layers: Float[Tensor, "R C P"]) -> Float[Tensor, "R C P"]:
        """What all steps make of layers."""

    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        directions, offsets = self._condense(support, class_shares(targets, classes))
        return Condensed(directions[0], (offsets[0],))

    def left_out(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        rows: Int[Tensor, " K"],
    ) -> Float[Tensor, "K C"]:
        """By sixteenths, as by default, but several at once."""

        def answer(visible: Bool[Tensor, "R M"], asked: Int[Tensor, "R Q"]) -> Tensor:
            shares = class_shares(targets, classes, visible)
            directions, offsets = self._condense(support, shares)
            return support[asked] @ directions.mT + offsets[:, None]

        most = max(1, NUMBERS // (support.shape[1] * (classes + len(support) // FOLDS)))
        return left_out_by_folds(targets, classes, rows, most, answer)

    def _condense(
        self, support: Float[Tensor, "M D"], shares: Float[Tensor, "R C M"]
    ) -> tuple[Float[Tensor, "R C D"], Float[Tensor, "R C"]]:
        """Directions and offsets, each time by the shots that have shares."""
        with in_full_precision(support.device):
            shares = shares.to(support.dtype)
            features = F.pad(self.map.down(support), (0, 1), value=1.0)
            start = features.new_zeros(*shares.shape[:2], features.shape[1])
            if not self.corrects:
                loss = SupportLoss(features, shares, torch.zeros_like(shares.mT))
                layers = self.solve(loss, start)
                return layers[..., :-1] @ self.map.down.weight, layers[..., -1]
            mapped = self.map(shares @ support)
            rows, offsets = 2 * self.map.transposed(mapped), -mapped.square().sum(dim=2)
            loss = SupportLoss(features, shares, support @ rows.mT + offsets[:, None])
            layers = self.gain * self.solve(loss, start)
            scale = self.log_scale.exp()
            directions = scale * rows + layers[..., :-1] @ self.map.down.weight
            return directions, scale * offsets + layers[..., -1]


class HeadObjective(EpisodicObjective):
    """Learns the network of a head, which starts as plain prototypes."""

    starts_well = True

    def __init__(self, network: HeadNetwork) -> None:
        super().__init__()
        self.network = network

    def logits(
        self, support: Float[Tensor, "C K D"], query: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "Q C"]:
        classes, shots = support.shape[:2]
        targets = torch.arange(classes, device=support.device).repeat_interleave(shots)
        return self.network.answer(
            self.network.condense(support.flatten(0, 1), targets, classes), query
        )


def start_head(
    method: HeadMethod,
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    split: LabelSplit,
    shape: EpisodeShape,
    recipe: Recipe,
    *,
    episodes_an_epoch: int,
) -> Training:
    """Begin to meta-train a head, whose network is the `network` of the objective.

    Before it learns and after each epoch it is judged on the same episodes of the labels of
    `split.validation`, and the best state is kept, the first of equal ones: where nothing was to
    learn, that is plain prototypes. Without such labels it is not judged.

    Args:
        embeddings: as the network will see them, centred and of unit length.
        targets: the label of each image.
        recipe: with epochs and a rate; what it says of batches does not count.

    Raises:
        TooFewForEpisodes: a part of the labels does not suffice for an episode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = HeadObjective(method.network(embeddings.shape[1]))
    return train_on_episodes(
        objective, embeddings, targets, split, shape, recipe, episodes_an_epoch
    )
