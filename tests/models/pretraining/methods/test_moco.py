"""MoCo."""

import math

import pytest
import torch
from torch import Generator, Tensor, nn

from models.pretraining.layers import projection_head
from models.pretraining.methods.moco import MoCo, _Objective
from tests.models.pretraining.conftest import conv
from tests.models.pretraining.methods.conftest import batch


def objective(images: int = 40, **options) -> _Objective:
    torch.manual_seed(0)
    encoder = conv()
    built = MoCo(**({"projection": 8} | options)).build(encoder, images)
    assert isinstance(built, _Objective)
    with torch.no_grad():
        for parameter in built.slow_encoder.parameters():
            parameter.add_(0.1)  # otherwise the copy would still be the encoder itself
    return built


def keys_of(method: _Objective, view: Tensor) -> Tensor:
    return method.slow_head(method.slow_encoder.features(view))


@pytest.mark.parametrize(("setting", "images", "length"), [(4096, 40, 80), (50, 40, 50)])
def test_the_queue_has_room_for_two_of_each_image_at_most(setting, images, length):
    assert objective(images, queue=setting).queue.features.shape == (length, 8)


def test_keys_are_what_the_copy_makes_of_the_second_view():
    method, sample = objective(), batch(5, 9, 3)

    outcome = method.pretext_loss(sample)

    keys = keys_of(method, sample.views[1])
    assert torch.allclose(outcome.features[1], keys, atol=1e-5)
    assert torch.allclose(method.queue.inside()[:3], keys, atol=1e-5)
    assert method.queue.images[:3].tolist() == [5, 9, 3]
    assert not outcome.features[1].requires_grad
    assert outcome.features[0].requires_grad


def test_keys_of_a_large_batch_are_normed_in_parts_and_keep_their_order():
    method, sample = objective(), batch(*range(16))
    torch.manual_seed(3)
    order = torch.randperm(16)

    torch.manual_seed(3)
    keys = method.pretext_loss(sample).features[1]

    whole = keys_of(method, sample.views[1])
    parts = order.chunk(4)
    for part in parts:
        assert torch.allclose(keys[part], keys_of(method, sample.views[1][part]), atol=1e-5)
    assert not torch.allclose(keys, whole, atol=1e-3)


def test_the_copy_follows_by_what_momentum_leaves():
    method = objective(momentum=0.75)
    modules = ((method.slow_encoder, method.encoder), (method.slow_head, method.head))
    with torch.no_grad():
        for parameter in method.head.parameters():
            parameter.add_(1.0)
    before = [[p.clone() for p in slow.parameters()] for slow, _ in modules]

    method.after_step(0.5)

    for (slow, fast), old in zip(modules, before, strict=True):
        for previous, current, aim in zip(old, slow.parameters(), fast.parameters(), strict=True):
            assert torch.allclose(current, 0.75 * previous + 0.25 * aim, atol=1e-6)


def test_what_the_queue_holds_of_the_same_image_is_no_negative():
    method, sample = objective().eval(), batch(5)
    features = torch.randn(6, 8, generator=Generator().manual_seed(1))
    method.queue.push(features, torch.tensor([5, 5, 5, 7, 7, 7]))
    loss = float(method.loss(sample).detach())

    method.queue.features[:3] = method.encoder.embedding_dim * keys_of(method, sample.views[0])
    of_itself = float(method.loss(sample).detach())
    method.queue.features[3:6] = keys_of(method, sample.views[0])
    of_others = float(method.loss(sample).detach())

    assert of_itself == loss
    assert abs(of_others - loss) > 1e-3


def test_the_first_batch_has_negatives_as_well():
    method = objective()

    loss = float(method.loss(batch(5, 9, 3, 4)).detach())

    assert loss > 0
    assert method.chance == pytest.approx(math.log(1 + 4))
    assert int(method.queue.filled) == 8  # what it was compared with, and its keys


def test_a_loss_that_teaches_nothing_leaves_the_queue():
    method = objective()
    method.loss(batch(5, 9, 3, 4))
    before = method.queue.features.clone()

    method.eval()
    method.loss(batch(1, 2, seed=1))

    assert torch.equal(method.queue.features, before)


@pytest.mark.parametrize("version", [1, 2])
def test_the_second_version_has_a_deeper_head(version):
    head = objective(version=version).head

    expected = projection_head(8, 8, 8, layers=version)
    assert [type(module) for module in head] == [type(module) for module in expected]
    assert sum(isinstance(module, nn.Linear) for module in head) == version
