"""Meta-learning of a head: a network learns to answer from embeddings that stay as they are."""

from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.heads.network import HeadNetwork
from models.metalearning import EpisodicObjective, train_on_episodes
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.training.loop import Training
from models.training.recipe import Recipe


@runtime_checkable
class HeadMethod(Protocol):
    """The options of one way to learn a head across episodes."""

    fewest_labels: ClassVar[int]  # with which it learns something that holds for others
    unsuited: ClassVar[str]  # when not to use it

    def network(self, dim: int) -> HeadNetwork:
        """The network that will learn, for embeddings of `dim` numbers."""
        ...


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
