"""Inner loops: what the steps that solve an episode see, and what is learned through them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.inner_loop import (
    InnerLoopDiverged,
    in_float32,
    parameters_of,
    run_stages,
    slopes,
    stages_of,
    support_labels,
    support_loss,
)
from models.training.loop import Diverged

IMAGES = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder():
    return Conv4(width=4, image_side=16).build()


def test_the_support_is_normalised_as_a_batch(encoder):
    stages = stages_of(encoder.train())

    by_support = run_stages(stages, {}, IMAGES, support=len(IMAGES))

    assert torch.allclose(by_support, stages(IMAGES), atol=1e-5)


def test_queries_are_normalised_by_the_support_alone(encoder):
    stages = stages_of(encoder.eval())

    together = run_stages(stages, {}, IMAGES, support=5)
    alone = [
        run_stages(stages, {}, torch.cat([IMAGES[:5], image[None]]), support=5)[5]
        for image in IMAGES[5:]
    ]

    assert torch.allclose(torch.stack(alone), together[5:], atol=1e-5)


def test_gradients_reach_what_the_statistics_were_taken_from(encoder):
    images = IMAGES.clone().requires_grad_()

    run_stages(stages_of(encoder), {}, images, support=5)[5:].square().sum().backward()

    assert float(images.grad[:5].abs().sum()) > 0


def test_running_statistics_follow_the_support_where_they_learn(encoder):
    encoder.train()
    stages = stages_of(encoder)
    forgetful = [value.clone() for value in stages.buffers()]
    run_stages(stages, {}, IMAGES, support=5)
    assert all(map(torch.equal, forgetful, stages.buffers()))

    run_stages(stages, {}, IMAGES, support=5, remember=True)

    other = Conv4(width=4, image_side=16).build().train()
    other.features((IMAGES[:5] * other.std) + other.mean)
    learned, expected = dict(encoder.named_buffers()), dict(other.named_buffers())
    names = [name for name in learned if "running" in name]
    assert len(names) == 8
    assert all(torch.allclose(learned[name], expected[name], atol=1e-5) for name in names)


def test_norms_are_as_before_once_it_has_run(encoder):
    encoder.eval()
    before = encoder.features(IMAGES)

    with pytest.raises(RuntimeError):
        run_stages(stages_of(encoder), {}, IMAGES[:, :2], support=5)

    assert torch.equal(encoder.features(IMAGES), before)


def test_stages_keep_their_numbers(encoder):
    last = parameters_of(stages_of(encoder, 3))

    assert set(last) == {"3.0.weight", "3.1.weight", "3.1.bias"}
    assert all(value is encoder.stages.get_parameter(name) for name, value in last.items())


def test_frozen_parameters_take_part(encoder):
    encoder.requires_grad_(False)

    assert all(value.requires_grad for value in parameters_of(stages_of(encoder)).values())


def test_the_layer_counts_as_if_the_features_had_not_made_it():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 4, generator=generator).double()
    weights = {"0.weight": torch.randn(3, 4, generator=generator).double().requires_grad_()}
    labels = support_labels(3, 2, torch.device("cpu"))
    features = images @ weights["0.weight"].T
    rows = features.unflatten(0, (3, 2)).mean(dim=1)
    offsets = -rows.square().sum(dim=1)

    made = slopes(features, (rows, offsets), labels, weights, step=1, learns=False, second=False)

    apart = [value.detach().requires_grad_() for value in (rows, offsets)]
    again = images @ weights["0.weight"].T
    loss = F.cross_entropy(again @ apart[0].T + apart[1], labels)
    expected = torch.autograd.grad(loss, [weights["0.weight"], *apart])
    assert all(torch.allclose(a, b) for a, b in zip(made, expected, strict=True))


def test_what_is_no_number_is_named_with_its_step():
    logits = torch.full((2, 2), torch.nan)

    with pytest.raises(InnerLoopDiverged, match="nan in step 3 of the inner loop: lower the inner"):
        support_loss(logits, torch.tensor([0, 1]), 3)
    assert issubclass(InnerLoopDiverged, Diverged)


def test_an_inner_loop_has_gradients_where_its_caller_has_none():
    layer = nn.Linear(2, 2)
    with torch.no_grad(), in_float32(torch.device("cpu")) as learns:
        assert layer(torch.ones(1, 2)).requires_grad
    assert not learns

    with torch.autocast("cpu", torch.bfloat16), in_float32(torch.device("cpu")) as learns:
        assert layer(torch.ones(1, 2)).dtype == torch.float32
    assert learns
