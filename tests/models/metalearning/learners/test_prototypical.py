"""Prototypical networks."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning import start
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.learners.prototypical import Prototypical
from models.training.loop import Batch
from models.training.recipe import Recipe

GENERATOR = torch.Generator().manual_seed(0)
SUPPORT = torch.randn(3, 4, 8, generator=GENERATOR)
QUERY = torch.randn(5, 8, generator=GENERATOR)


def objective(**options):
    return Prototypical(**options).build(Conv4(width=8, image_side=28).build(), fresh=True)


def test_logits_are_squared_distances_to_the_means():
    logits = objective().logits(SUPPORT, QUERY)

    expected = -torch.cdist(QUERY, SUPPORT.mean(dim=1)).square()
    differences = logits - logits[:, :1], expected - expected[:, :1]
    assert torch.allclose(*differences, atol=1e-4)


def test_cosines_are_to_the_directions_of_means():
    support, query = F.normalize(SUPPORT, dim=2), F.normalize(QUERY, dim=1)

    logits = objective(distance="cosine").logits(support, query)

    cosines = F.cosine_similarity(query[:, None], support.mean(dim=1)[None], dim=2)
    assert torch.allclose(logits, 10 * cosines, atol=1e-4)


def test_several_centroids_tell_a_label_of_two_looks_that_a_mean_cannot():
    looks = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [-4.1, 0.0], [4.1, 0.0]])
    support = torch.stack([looks, torch.tensor([0.0, 1.0]) + 0.01 * looks])
    query = torch.tensor([[-4.0, 0.9], [4.0, 0.9], [0.0, 1.0]])

    answers = {n: objective(centroids=n).logits(support, query).argmax(dim=1) for n in (1, 2)}

    assert answers[2].tolist() == [0, 0, 1]
    assert answers[1].tolist() != answers[2].tolist()


def test_more_centroids_than_shots_are_as_many_as_shots():
    one_shot = SUPPORT[:, :1]

    first, second = objective(centroids=3), objective()

    assert torch.allclose(first.logits(one_shot, QUERY), second.logits(one_shot, QUERY))


def test_no_centroids_are_refused():
    with pytest.raises(ValueError, match="centroids must be from 1 to 10, got 0"):
        Prototypical(centroids=0)


def begin(characters, *, warm_up=1, labels=8):
    """Of labels of which one has more images than others."""
    images, targets = characters(labels, 5)
    more = torch.cat([torch.arange(len(targets)), torch.arange(5).repeat(20)])
    training = start(
        Prototypical(warm_up=warm_up),
        Conv4(width=4, image_side=28).build(),
        images[more],
        targets[more],
        LabelSplit(list(range(0, labels, 2)), [], []),
        EpisodeShape(ways=3, shots=(1, 2), queries=2),
        Recipe(epochs=1, rate=1e-2),
        episodes_an_epoch=2,
        fresh=True,
    )
    positions: list[torch.Tensor] = []
    loss = training.objective.loss

    def watched(batch):
        positions.append(batch.positions)
        return loss(batch)

    training.objective.loss = watched
    return training, targets[more], positions


def test_it_warms_up_by_ordinary_classification(characters):
    training, targets, positions = begin(characters, warm_up=10)
    first = training.objective.encoder.state_dict()["stages.0.0.weight"].clone()

    epochs = list(training)

    assert [epoch.of for epoch in epochs] == [11] * 11
    labels = [targets[part] for part in positions]
    assert all(len(part) > 0 and bool((part % 2 == 0).all()) for part in labels)
    shares = torch.bincount(torch.cat(labels[:20])).float() / sum(map(len, labels[:20]))
    assert torch.allclose(shares[::2], torch.tensor(0.25), atol=0.1)
    assert all(len(set(part.tolist())) == len(part) for part in positions[20:])
    assert not torch.equal(training.objective.encoder.state_dict()["stages.0.0.weight"], first)
    assert epochs[9].loss < epochs[0].loss


def test_its_first_classification_is_of_labels_that_are_as_likely(characters):
    training, targets, _ = begin(characters)
    training.objective.before_epoch(training._images)
    shares = F.one_hot(targets, 8).float()[:10]

    loss = training.objective.loss(Batch([training._images[:10] / 255], torch.arange(10), shares))

    assert float(loss) == pytest.approx(math.log(4))


@pytest.mark.parametrize("epochs", [1, 2])
def test_it_goes_on_bit_for_bit_wherever_it_was_interrupted(characters, epochs):
    whole, _, _ = begin(characters, warm_up=2)
    losses = [epoch.loss for epoch in whole]
    interrupted, _, _ = begin(characters, warm_up=2)
    for _ in range(epochs):
        next(interrupted)

    resumed, _, _ = begin(characters, warm_up=2)
    resumed.load(interrupted.state())

    assert [epoch.loss for epoch in resumed] == losses[epochs:]
    for one, other in zip(
        whole.objective.state_dict().values(), resumed.objective.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_without_warming_up_it_has_no_layer_to_classify_with():
    assert {name.partition(".")[0] for name in objective().state_dict()} == {"encoder"}
    with pytest.raises(ValueError, match="warm_up must be from 0 to 1000, got -1"):
        Prototypical(warm_up=-1)
