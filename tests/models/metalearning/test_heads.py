"""Meta-learning of a head: what is there before there is a method."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from models.heads.network import Condensed, HeadNetwork, class_prototypes
from models.metalearning.episodes import EpisodeShape, LabelSplit, TooFewForEpisodes
from models.metalearning.heads import HeadMethod, HeadObjective, SupportLoss, start_head
from models.metalearning.learners.feat import Feat
from models.metalearning.learners.prototypical import Prototypical
from models.training.recipe import Recipe

EMBEDDINGS = nn.functional.normalize(torch.randn(48, 8, generator=torch.Generator()), dim=1)
TARGETS = torch.arange(8).repeat_interleave(6)
SHAPE = EpisodeShape(ways=2, shots=2, queries=2)
SPLIT = LabelSplit([0, 1, 2, 3], [4, 5], [6, 7])


class Scaled(HeadNetwork):
    """Plain prototypes by a scale, whose sign turns the answers around."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.noise = torch.rand(())

    def condense(self, support: Tensor, targets: Tensor, classes: int) -> Condensed:
        return Condensed(self.scale * class_prototypes(support, targets, classes), ())

    def log_odds(self, condensed: Condensed, projected: Tensor) -> Tensor:
        return projected


class ScaledMethod:
    fewest_labels: ClassVar[int] = 2
    unsuited: ClassVar[str] = "nothing"

    def network(self, dim: int) -> HeadNetwork:
        return Scaled()


def begin(*, split=SPLIT, seed=0):
    recipe = Recipe(epochs=2, rate=1e-3, seed=seed)
    return start_head(
        ScaledMethod(), EMBEDDINGS, TARGETS, split, SHAPE, recipe, episodes_an_epoch=3
    )


def test_methods_of_heads_are_told_from_those_of_encoders():
    assert isinstance(Feat(), HeadMethod)
    assert not isinstance(Prototypical(), HeadMethod)


def test_classes_of_an_episode_are_in_the_order_of_its_support():
    support = EMBEDDINGS.view(8, 6, 8)[[5, 2], :4]

    logits = HeadObjective(Scaled()).logits(support, EMBEDDINGS[:3])

    assert torch.allclose(logits, EMBEDDINGS[:3] @ support.mean(dim=1).T, atol=1e-6)


def test_nothing_is_learned_where_nothing_is_better_than_the_start():
    training = begin()
    judged = iter([0.8, 0.6, 0.8])
    training._judge = lambda: next(judged)

    epochs = list(training)
    learned = float(training.objective.network.scale)
    training.restore_best()

    assert [epoch.accuracy for epoch in epochs] == [0.6, 0.8]
    assert learned != 1
    assert float(training.objective.network.scale) == 1


def test_the_seed_alone_says_what_weights_are_drawn():
    torch.manual_seed(1)
    first = begin(seed=3).objective.network.noise
    torch.manual_seed(2)

    assert begin(seed=3).objective.network.noise == first
    assert begin(seed=4).objective.network.noise != first


def test_too_few_labels_are_refused():
    with pytest.raises(TooFewForEpisodes, match="2 labels need as many with 4 images each"):
        begin(split=LabelSplit([0], [4, 5], []))
    with pytest.raises(TooFewForEpisodes, match="one label to validate with"):
        begin(split=LabelSplit([0, 1, 2], [4], []))


def test_the_slope_of_the_support_is_that_of_autograd():
    generator = torch.Generator().manual_seed(0)
    features, layer, closeness = (
        torch.randn(*size, generator=generator).double() for size in ((5, 4), (2, 4), (5, 2))
    )
    shares = torch.tensor([[1, 0, 0, 0, 0], [0, 0.25, 0.25, 0.25, 0.25]]).double()
    layer.requires_grad_()

    slopes, losses = SupportLoss(features, shares[None], closeness[None]).slope(layer[None], 1)

    labels = torch.tensor([0, 1, 1, 1, 1])
    each = nn.functional.cross_entropy(closeness + features @ layer.T, labels, reduction="none")
    expected = each[0] + each[1:].mean()
    assert torch.allclose(losses[0], expected, atol=1e-12)
    assert torch.allclose(slopes[0], torch.autograd.grad(expected, layer)[0], atol=1e-12)
