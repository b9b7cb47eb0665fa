"""What all ways to meta-learn share."""

import pytest
import torch
from torch import nn

from models import metalearning
from models.encoders.architectures.conv4 import Conv4
from models.metalearning import LeakingNorms, start
from models.metalearning.episodes import EpisodeShape, LabelSplit
from models.metalearning.learners.prototypical import Prototypical
from models.training.recipe import Recipe

SHAPE = EpisodeShape(ways=3, shots=2, queries=2)
SPLIT = LabelSplit([0, 1, 2, 3], [4, 5], [6, 7])


def begin(drawings, encoder, *, split=SPLIT):
    images, targets = drawings
    return start(
        Prototypical(),
        encoder,
        images,
        targets,
        split,
        SHAPE,
        Recipe(epochs=3, rate=1e-3),
        episodes_an_epoch=2,
        fresh=True,
    )


def test_the_best_state_by_validation_is_restored(characters):
    training = begin(characters(8, 6), Conv4(width=8, image_side=28).build())
    judged = iter([0.5, 0.9, 0.7])
    training._judge = lambda: next(judged)
    states = []

    for _ in training:
        state = training.objective.state_dict()
        states.append({name: tensor.clone() for name, tensor in state.items()})
    training.restore_best()

    restored = training.objective.state_dict()
    assert all(torch.equal(restored[name], states[1][name]) for name in restored)


def test_without_labels_to_validate_the_last_state_stays(characters):
    training = begin(
        characters(8, 6), Conv4(width=8, image_side=28).build(), split=LabelSplit([0, 1, 2], [], [])
    )

    epochs = list(training)

    assert {epoch.accuracy for epoch in epochs} == {None}


def test_norms_by_which_queries_would_know_of_each_other_are_refused(characters):
    encoder = Conv4(width=8, image_side=28).build()
    encoder.stages[1].register_module("1", nn.BatchNorm2d(8, track_running_stats=False))

    with pytest.raises(LeakingNorms, match=r"stages\.1\.1 normalise by the other images"):
        begin(characters(8, 6), encoder)


def test_large_episodes_of_a_pretrained_encoder_learn_the_same_part_by_part(
    characters, monkeypatch
):
    monkeypatch.setattr(metalearning, "PART_PIXELS", 10 * 28**2)
    images = characters(8, 6)[0].float() / 255
    encoder = Conv4(width=8, image_side=28).build()
    objective = Prototypical().build(encoder.train(False).requires_grad_(True), fresh=False)

    whole, parts = encoder.features(images), objective.in_parts(encoder.features, images)
    gradients = [
        torch.autograd.grad(features.square().sum(), list(encoder.parameters()))
        for features in (whole, parts)
    ]

    assert torch.allclose(whole, parts, atol=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*gradients, strict=True))
