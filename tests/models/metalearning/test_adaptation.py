"""Learned steps over labeled images: as in an episode, and in parts, however many there are."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoders.architectures.conv4 import Conv4
from models.metalearning.adaptation import (
    NormStatistics,
    adapt,
    even_parts,
    learned_beside,
    pooled,
    restore,
)
from models.metalearning.inner_loop import InnerLoopDiverged
from models.metalearning.learners.lstm_learner import LSTMLearner
from models.metalearning.learners.maml import MAML, OtherWays
from models.metalearning.learners.prototypical import Prototypical
from models.training.checkpoint import pack, unpack

GENERATOR = torch.Generator().manual_seed(0)
WAYS, SHOTS = 3, 4
IMAGES = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=GENERATOR)
TARGETS = torch.arange(WAYS).repeat_interleave(SHOTS)
ALIKE, NEW = IMAGES[: WAYS * SHOTS], IMAGES[WAYS * SHOTS :].float() / 255
METHODS = {
    "all": MAML(rate=0.05, steps=3),
    "last_stage": MAML(inner="last_stage", rate=0.05, steps=3),
    "fixed": MAML(start="fixed", ways=WAYS, rate=0.05, steps=3),
    "lstm": LSTMLearner(),
}


def learner(method, *, fresh: bool):
    """With running statistics of its own, and something learned beside the weights."""
    torch.manual_seed(0)
    encoder = Conv4(width=4, image_side=16).build().train()
    for _ in range(3):
        encoder(NEW * torch.rand(8, 1, 1, 1))
    objective = method.build(encoder, fresh=fresh)
    for name, parameter in objective.named_parameters():
        if not name.startswith("encoder."):
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return objective.eval()


def features(encoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder.features(images)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_it_answers_as_the_learner_does_in_an_episode_of_the_same_support(method, fresh):
    objective = learner(METHODS[method], fresh=fresh)
    support = objective.prepare(ALIKE.float() / 255).unflatten(0, (WAYS, SHOTS))
    with torch.no_grad():
        expected = objective.logits(support, objective.prepare(NEW))
    adaptation = adapt(objective, ALIKE, TARGETS, batch_size=32)

    epochs = list(adaptation.training)

    solution = adaptation.training._solution
    answers = features(adaptation.averaged(), NEW) @ solution.rows.T + solution.offsets
    assert torch.allclose(answers, expected, atol=3e-6 * float(expected.detach().abs().max()))
    for value, own in zip(solution.tensors, objective.solve(support).tensors, strict=True):
        assert torch.allclose(value, own, atol=1e-6)
    assert [epoch.number for epoch in epochs] == list(range(1, epochs[0].of + 1))
    assert epochs[0].of == objective.count_steps(SHOTS)
    assert all(epoch.images == len(TARGETS) for epoch in epochs)


@pytest.mark.parametrize("method", METHODS)
def test_parts_change_nothing_where_norms_keep_their_statistics(method):
    runs = [adapt(learner(METHODS[method], fresh=False), ALIKE, TARGETS, n) for n in (32, 5)]
    losses = [[epoch.loss for epoch in run.training] for run in runs]

    whole, parts = (features(run.averaged(), NEW) for run in runs)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_a_label_counts_as_much_with_many_images():
    objective = learner(METHODS["all"], fresh=False)
    often = torch.cat([ALIKE, ALIKE[:SHOTS], ALIKE[:SHOTS]])
    targets = torch.cat([TARGETS, TARGETS[:SHOTS], TARGETS[:SHOTS]])

    runs = [adapt(objective, *data, 32) for data in ((ALIKE, TARGETS), (often, targets))]
    for run in runs:
        list(run.training)

    once, thrice = (features(run.averaged(), NEW) for run in runs)
    assert torch.allclose(once, thrice, atol=1e-5)


@pytest.mark.parametrize("batch_size", [32, 5])
def test_norms_that_took_the_statistics_of_the_support_serve_with_them(batch_size):
    objective = learner(METHODS["all"], fresh=True)
    adaptation = adapt(objective, ALIKE, TARGETS, batch_size)
    list(adaptation.training)

    encoder = adaptation.averaged()

    first = next(module for module in encoder.modules() if isinstance(module, _BatchNorm))
    with torch.no_grad():
        maps = encoder.stages[0][0](encoder.normalised(ALIKE.float() / 255))
    variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
    assert first.running_mean is not None
    assert first.running_var is not None
    assert torch.allclose(first.running_mean, mean, atol=1e-5)
    assert torch.allclose(first.running_var, variance, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_steps_that_were_interrupted_go_on_bit_for_bit(method, interrupted):
    objective = learner(METHODS[method], fresh=True)
    whole, cut, resumed = (adapt(objective, ALIKE, TARGETS, 5) for _ in range(3))
    losses = [epoch.loss for epoch in whole.training]
    for _ in range(interrupted):
        next(cut.training)

    resumed.training.load(unpack(pack(cut.training.state())))

    assert [epoch.loss for epoch in resumed.training] == losses[interrupted:]
    expected, state = whole.averaged().state_dict(), resumed.averaged().state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in state.items())


def test_the_learner_stays_as_it_is():
    objective = learner(METHODS["lstm"], fresh=True)
    before = copy.deepcopy(objective.state_dict())

    adaptation = adapt(objective, ALIKE, TARGETS, 5)
    list(adaptation.training)
    adaptation.averaged()

    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_learned_goes_through_a_file(method, fresh):
    objective = learner(METHODS[method], fresh=fresh)
    document = learned_beside(METHODS[method], objective)
    assert document is not None
    document = unpack(pack(document))
    encoder = Conv4(width=4, image_side=16).build()
    encoder.load_state_dict(objective.encoder.state_dict())

    restored = restore(document, encoder)

    assert not any(name.startswith("encoder.") for name in document["state"])
    runs = [adapt(one, ALIKE, TARGETS, 32) for one in (objective, restored)]
    losses = [[epoch.loss for epoch in run.training] for run in runs]
    assert losses[0] == losses[1]
    expected, state = (run.averaged().state_dict() for run in runs)
    assert all(torch.equal(expected[name], tensor) for name, tensor in state.items())


def test_methods_without_steps_leave_nothing_to_keep():
    assert learned_beside(Prototypical(), learner(Prototypical(), fresh=False)) is None


def test_what_does_not_fit_is_refused():
    document = learned_beside(METHODS["fixed"], learner(METHODS["fixed"], fresh=False))
    assert document is not None
    encoder, wider = Conv4(width=4, image_side=16).build(), Conv4(width=5, image_side=16).build()

    with pytest.raises(ValueError, match="does not have the learner 'telepathy'"):
        restore(document | {"name": "telepathy"}, encoder)
    with pytest.raises(ValueError, match=r"had other options: .*'wings'"):
        restore(document | {"options": {"wings": 2}}, encoder)
    with pytest.raises(ValueError, match="of another network"):
        restore(document, wider)
    with pytest.raises(ValueError, match="not what it learns"):
        restore(document | {"state": {}}, encoder)
    with pytest.raises(OtherWays, match="3 rows and the episode 2 labels"):
        adapt(restore(document, encoder), ALIKE[:8], TARGETS[:8], 32)


def test_steps_that_are_too_long_are_named():
    objective = learner(METHODS["all"], fresh=False)
    objective.log_rates.data += 500.0

    with pytest.raises(InnerLoopDiverged, match="in step 1 of the inner loop") as raised:
        list(adapt(objective, ALIKE, TARGETS, 32).training)

    assert raised.value.step == 1


def test_parts_have_the_classes_evenly_and_about_one_size():
    targets = torch.arange(40) % 4 // 3  # 30 and 10

    parts = even_parts(targets, 16)

    assert sorted(torch.cat(parts).tolist()) == list(range(40))
    assert [len(part) for part in parts] == [14, 13, 13]
    assert all(int(targets[part].sum()) in (3, 4) for part in parts)


def test_statistics_of_parts_are_those_of_all():
    values = torch.rand(4, 30, generator=GENERATOR)
    parts = [
        NormStatistics(part.mean(dim=1), part.var(dim=1, correction=0))
        for part in torch.split(values, [20, 10], dim=1)
    ]

    mean, variance = pooled(parts, torch.tensor([2 / 3, 1 / 3]))

    assert torch.allclose(mean, values.mean(dim=1), atol=1e-6)
    assert torch.allclose(variance, values.var(dim=1, correction=0), atol=1e-6)
