"""The one training loop."""

import io
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.augmentation.kinds.noise import Noise
from models.training.loop import Batch, Diverged, Objective, ParameterGroup, Training
from models.training.recipe import Recipe

IMAGES = torch.randint(
    0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
TARGETS = torch.arange(24) % 4 // 2 * (torch.arange(24) < 20)  # 14 of class 0, 10 of class 1


class Linear(Objective):
    """A linear classifier of pixels in two groups, with dropout; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 4)
        self.second = nn.Linear(4, 2)
        with torch.no_grad():
            for n, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-0.1, 0.1 + n / 100, parameter.numel()).view_as(
                    parameter))  # fmt: skip
        self.batches: list[Batch] = []

    def make_views(self, images, shares, generator):
        if images.ndim == 4:
            images, shares = Noise()(images, shares, generator)
        return [images], shares

    def loss(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        hidden = F.dropout(self.first(batch.views[0].flatten(1)), 0.2)
        return F.cross_entropy(self.second(hidden), batch.targets)

    def groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("first", list(self.first.parameters()), 0.5),
            ParameterGroup("second", list(self.second.parameters()), 1.0, decays=False),
        ]


def training(**options) -> Training:
    recipe = Recipe(**({"epochs": 4, "batch_size": 8, "rate": 0.01} | options))
    return Training(Linear(), IMAGES, TARGETS, recipe)


def weights(run: Training) -> list[Tensor]:
    return [p.detach().clone() for p in run.objective.parameters()]


def distance(first: list[Tensor], second: list[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True)))


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_loss_falls():
    epochs = list(training(epochs=30))

    assert [epoch.number for epoch in epochs] == list(range(1, 31))
    assert epochs[-1].loss < 0.7 * epochs[0].loss
    assert {(epoch.of, epoch.images) for epoch in epochs} == {(30, 24)}


def test_a_seed_gives_the_same_run_and_another_seed_another():
    runs = [training(seed=seed) for seed in (1, 1, 2)]
    for run in runs:
        list(run)

    assert same(weights(runs[0]), weights(runs[1]))
    assert not same(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(schedule, optimizer):
    options = {"schedule": schedule, "optimizer": optimizer, "ema_decay": 0.9}
    whole = training(**options)
    losses = [epoch.loss for epoch in whole]

    first = training(**options)
    next(first), next(first)
    file = io.BytesIO()
    torch.save(first.state(), file)
    torch.manual_seed(99)  # another process has other chance
    second = training(**options)
    file.seek(0)
    second.load(torch.load(file))
    remaining = [epoch.loss for epoch in second]

    assert remaining == losses[2:]
    assert same(weights(second), weights(whole))
    assert same(list(second.averaged.parameters()), list(whole.averaged.parameters()))


def test_every_group_has_its_rate_in_the_optimizer_after_steps():
    run = training(schedule="constant")

    assert next(run).rates == {"first": 0.005, "second": 0.01}


def test_balanced_batches_hold_every_class_equally_often():
    run = training(epochs=200, rate=1e-6)
    list(run)

    shares = torch.cat([batch.targets for batch in run.objective.batches]).mean(dim=0)

    # 4,800 draws: a standard deviation of 0.007.
    assert torch.allclose(shares, torch.tensor([0.5, 0.5]), atol=0.03)


def test_without_balance_every_image_comes_once_an_epoch():
    run = training(balanced=False)
    next(run)

    positions = torch.cat([batch.positions for batch in run.objective.batches])

    assert sorted(positions.tolist()) == list(range(24))


def test_it_stops_when_the_held_out_accuracy_no_longer_rises():
    accuracies = iter([0.5, 0.6, 0.6, 0.55, 0.7])
    recipe = Recipe(epochs=9, patience=2, rate=1e-4)

    epochs = list(Training(Linear(), IMAGES, TARGETS, recipe, judge=lambda: next(accuracies)))

    assert [epoch.accuracy for epoch in epochs] == [0.5, 0.6, 0.6, 0.55]


def test_a_loss_that_is_no_number_ends_the_run_with_its_epoch():
    run = training(rate=1e38, optimizer="sgd", clip_norm=0.0)

    with pytest.raises(Diverged, match="in epoch 1: the learning rate is too high"):
        list(run)


def test_the_average_lags_behind():
    run = training(ema_decay=0.99)
    start = weights(run)
    list(run)

    travelled = distance(start, weights(run))
    lagging = distance(start, [p.detach() for p in run.averaged.parameters()])
    assert 0 < lagging < travelled


def test_features_are_trained_on_as_they_are():
    run = Training(Linear(), torch.randn(24, 192), TARGETS, Recipe(epochs=1, rate=0.01))
    next(run)

    assert run.objective.batches[0].views[0].min() < 0


@pytest.mark.parametrize("options", [{"epochs": 1}, {"rate": 0.01}])
def test_a_training_needs_what_a_recipe_may_leave_open(options):
    with pytest.raises(ValueError, match="epochs and a rate"):
        Training(Linear(), IMAGES, TARGETS, Recipe(**options))


class Unlabeled(Linear):
    """Sees two views; remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, float] | float] = []

    def make_views(self, images, shares, generator):
        return [images, images.flip(3)], shares

    def loss(self, batch: Batch) -> Tensor:
        self.batches.append(batch)
        first, second = (self.first(view.flatten(1)) for view in batch.views)
        return (first - second + torch.rand(())).square().mean()

    def before_epoch(self, images) -> None:
        self.events.append((len(images), float(torch.rand(()))))

    def after_step(self, progress: float) -> None:
        self.events.append(progress)


def test_without_labels_an_objective_sees_its_views_and_no_rest_of_an_epoch():
    objective = Unlabeled()

    epochs = list(Training(objective, IMAGES, None, Recipe(epochs=2, batch_size=9, rate=1e-3)))

    assert [epoch.images for epoch in epochs] == [18, 18]
    assert [len(batch.positions) for batch in objective.batches] == [9, 9] * 2
    assert {batch.targets.shape for batch in objective.batches} == {(9, 0)}
    assert torch.equal(objective.batches[0].views[0], objective.batches[0].views[1].flip(3))


def test_an_objective_hears_of_every_epoch_and_step():
    objective = Unlabeled()

    list(Training(objective, IMAGES, None, Recipe(epochs=2, batch_size=8, rate=1e-3)))

    steps = [event for event in objective.events if isinstance(event, float)]
    assert [event[0] for event in objective.events if isinstance(event, tuple)] == [24, 24]
    assert isinstance(objective.events[0], tuple)
    assert steps == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_an_objective_says_in_which_order_it_wants_images():
    class Ordered(Linear):
        def order(self, images, targets, recipe, generator):
            assert images == 24
            assert torch.equal(targets, TARGETS)
            return [torch.tensor([3, 1]), torch.tensor([5]), torch.tensor([7, 7, 2])]

    run = Training(Ordered(), IMAGES, TARGETS, Recipe(epochs=2, rate=0.01, schedule="range"))
    rates = [rate for rate, _ in run.steps()]

    assert [b.positions.tolist() for b in run.objective.batches] == 2 * [[3, 1], [5], [7, 7, 2]]
    assert rates[-1] == pytest.approx(0.01)
    assert rates == sorted(rates)


def test_the_state_before_the_first_step_may_be_the_best():
    judged = iter([0.9, 0.5, 0.9])
    run = Training(
        Linear(), IMAGES, TARGETS, Recipe(epochs=2, rate=0.01), judge=lambda: next(judged),
        keeps_best=True, judges_start=True,
    )  # fmt: skip
    start = [value.clone() for value in weights(run)]

    accuracies = [epoch.accuracy for epoch in run]
    run.restore_best()

    assert accuracies == [0.5, 0.9]
    assert same(weights(run), start)


def test_the_best_state_survives_a_resumption():
    judged = iter([0.9, 0.5])
    first = Training(
        Linear(), IMAGES, TARGETS, Recipe(epochs=2, rate=0.01), judge=lambda: next(judged),
        keeps_best=True,
    )  # fmt: skip
    next(first)
    best = weights(first)
    second = Training(
        Linear(), IMAGES, TARGETS, Recipe(epochs=2, rate=0.01), judge=lambda: next(judged),
        keeps_best=True,
    )  # fmt: skip

    second.load(first.state())
    list(second)

    assert not same(weights(second), best)
    second.restore_best()
    assert same(weights(second), best)
