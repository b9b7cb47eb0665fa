"""Model-agnostic meta-learning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners.maml import MAML, OtherWays

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(12, 3, 16, 16, generator=GENERATOR).double()
LABELS = torch.arange(3).repeat_interleave(2)
STARTS = ("prototypes", "shared", "fixed")


def learner(*, fresh: bool = True, **options):
    """In float64, of a network so small that each of its derivatives can be looked at."""
    torch.manual_seed(0)
    options = {"ways": 3, "rate": 0.3, "steps": 2} | options
    encoder = Conv4(width=3, image_side=16).build()
    return MAML(**options).build(encoder, fresh=fresh).double().train()


def outer_loss(objective):
    prepared = objective.prepare(IMAGES)
    return F.cross_entropy(
        objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:]), LABELS
    )


def slope_along(objective, parameter, direction, *, step: float = 1e-7) -> float:
    """The derivative of the outer loss, by central differences."""
    with torch.no_grad():
        parameter += step * direction
        above = float(outer_loss(objective))
        parameter -= 2 * step * direction
        below = float(outer_loss(objective))
        parameter += step * direction
    return (above - below) / (2 * step)


@pytest.mark.parametrize("inner", ["all", "last_stage"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("fresh", [True, False])
def test_gradients_of_second_order_are_those_of_finite_differences(inner, start, fresh):
    objective = learner(inner=inner, start=start, fresh=fresh)

    outer_loss(objective).backward()

    for name, parameter in objective.named_parameters():
        direction = torch.randn(parameter.shape, generator=GENERATOR, dtype=torch.float64)
        expected = slope_along(objective, parameter, direction)
        slope = float((parameter.grad * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8), name


def test_gradients_of_first_order_differ():
    second, first = learner(), learner(order="first")
    for objective in (second, first):
        outer_loss(objective).backward()

    one, other = (
        torch.cat([p.grad.flatten() for p in objective.encoder.parameters()])
        for objective in (second, first)
    )
    cosine = float(F.cosine_similarity(one, other, dim=0))
    assert 0.2 < cosine < 0.999


def test_first_order_takes_the_gradient_at_the_weights_that_were_found():
    objective = learner(order="first", start="fixed")

    outer_loss(objective).backward()

    prepared = objective.prepare(IMAGES)
    weights, rows, offsets = objective.solve(prepared[:6].unflatten(0, (3, 2)))
    found = learner(start="fixed", steps=1, rate=1e-30)
    found.encoder.stages.load_state_dict(weights, strict=False)
    found.rows, found.offsets = nn.Parameter(rows), nn.Parameter(offsets)
    outer_loss(found).backward()
    for one, other in zip(objective.encoder.parameters(), found.encoder.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-12)


def test_a_step_is_one_of_gradient_descent():
    objective = learner(start="fixed", steps=1, fresh=False).eval()
    support = objective.prepare(IMAGES[:6]).unflatten(0, (3, 2))

    weights, rows, offsets = objective.solve(support)

    encoder, parameters = objective.encoder, list(objective.encoder.parameters())
    logits = encoder.features(IMAGES[:6]) @ objective.rows.T + objective.offsets
    wanted = [*parameters, objective.rows, objective.offsets]
    gradients = torch.autograd.grad(F.cross_entropy(logits, LABELS), wanted)
    for value, start, gradient in zip(
        [*weights.values(), rows, offsets], wanted, gradients, strict=True
    ):
        assert torch.allclose(value, start - 0.3 * gradient, atol=1e-10)


def test_prototypes_are_where_it_starts():
    objective = learner(rate=1e-30, fresh=False)
    prepared = objective.prepare(IMAGES)

    logits = objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:])

    features = objective.encoder.features(IMAGES)
    means = features[:6].unflatten(0, (3, 2)).mean(dim=1)
    expected = -torch.cdist(features[6:], means).square()
    assert torch.allclose(logits.log_softmax(dim=1), expected.log_softmax(dim=1), atol=1e-6)


def test_what_steps_change_is_what_was_asked():
    changed = {
        inner: {name[0] for name in learner(inner=inner).solve(shots(inner)).weights}
        for inner in ("all", "last_stage")
    }

    assert changed == {"all": {"0", "1", "2", "3"}, "last_stage": {"3"}}


def shots(inner):
    return learner(inner=inner).prepare(IMAGES[:6]).unflatten(0, (3, 2))


def test_rates_learn_one_for_each_tensor():
    objective = learner()

    outer_loss(objective).backward()

    assert objective.log_rates.shape == (12 + 2,)
    assert bool((objective.log_rates.grad != 0).all())


@pytest.mark.parametrize("start", ["prototypes", "shared"])
def test_it_takes_any_number_of_labels(start):
    objective = learner(start=start)
    prepared = objective.prepare(IMAGES)

    logits = objective.logits(prepared[:10].unflatten(0, (5, 2)), prepared[10:])

    assert logits.shape == (2, 5)


def test_a_fixed_layer_refuses_other_ways():
    objective = learner(start="fixed")
    prepared = objective.prepare(IMAGES)

    with pytest.raises(OtherWays, match="has 3 rows and the episode 5 labels"):
        objective.logits(prepared[:10].unflatten(0, (5, 2)), prepared[10:])


def test_a_fixed_layer_answers_by_the_order_of_labels():
    fixed, shared = learner(start="fixed"), learner(start="shared")
    order = torch.tensor([2, 0, 1])

    for objective, expected in ((fixed, False), (shared, True)):
        prepared = objective.prepare(IMAGES)
        support, query = prepared[:6].unflatten(0, (3, 2)), prepared[6:]
        answers = (
            objective.logits(support, query)[:, order],
            objective.logits(support[order], query),
        )
        assert torch.allclose(*answers, atol=1e-6) == expected


@pytest.mark.parametrize("steps", [1, 5])
def test_an_inner_rate_that_is_too_high_is_named(steps):
    objective = learner(steps=steps, fresh=False)
    objective.log_rates.data += 500.0
    prepared = objective.prepare(IMAGES)

    with pytest.raises(InnerLoopDiverged, match="lower the inner rate") as raised:
        objective.logits(prepared[:6].unflatten(0, (3, 2)), prepared[6:])

    assert raised.value.step == min(2, steps)


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"ways": 1}, {"tasks": 0}])
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        MAML(**options)
