"""How accuracy has grown, and what twice the labels would bring."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from scipy.optimize import least_squares
from torch.nn import functional as F

from models.evaluation import forecast as module
from models.evaluation.forecast import (
    Forecast,
    LearningCurve,
    TooFewToForecast,
    enough,
    forecast,
    learning_curve,
)
from models.evaluation.intervals import Interval
from models.heads.kinds.cosine import Cosine, FittedCosine

T = TypeVar("T")
SIZES = torch.tensor([10, 20, 30, 45, 60, 90])


def blobs(
    shots: int, classes: int = 4, deviation: float = 1.2
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(shots * classes) % classes
    noise = deviation * torch.randn(len(targets), 16, generator=generator)
    return F.normalize(2 * torch.eye(16)[targets] + noise, dim=1), targets


def curve_of(accuracy: torch.Tensor, images: int = 10_000) -> LearningCurve:
    """A curve of these accuracies, each image judged once at each size."""
    right = (torch.arange(images) < images * accuracy[:, None]).double()
    return LearningCurve(SIZES, torch.ones_like(right), right, torch.zeros(6, dtype=torch.float64))


def recorded(method: Callable[..., T]) -> tuple[Callable[..., T], list[torch.Tensor]]:
    """A method that does the same, and the embeddings that it is called with."""
    embeddings: list[torch.Tensor] = []

    def call(head: object, rows: torch.Tensor, *arguments: object) -> T:
        embeddings.append(rows)
        return method(head, rows, *arguments)

    return call, embeddings


def test_no_part_is_judged_on_what_it_learned_from(monkeypatch):
    embeddings, targets = blobs(10)
    fit, learned = recorded(Cosine.fit)
    probabilities, judged = recorded(FittedCosine.probabilities)
    monkeypatch.setattr(Cosine, "fit", fit)
    monkeypatch.setattr(FittedCosine, "probabilities", probabilities)

    curve = learning_curve(Cosine(), embeddings, targets, repetitions=2)

    assert [len(rows) for rows in learned] == [4, 8, 8, 12, 16, 20, 24, 32, 36] * 2
    assert curve.sizes.tolist() == [4, 8, 12, 16, 20, 24, 32, 36]
    for support, held_out in zip(learned, judged, strict=True):
        assert len(support) + len(held_out) == 40
        assert float((held_out @ support.T).max()) < 1 - 1e-6


def test_each_size_is_the_mean_of_fitting_and_judging_by_hand():
    embeddings, targets = blobs(6)

    curve = learning_curve(Cosine(), embeddings, targets, repetitions=3)

    generator = torch.Generator().manual_seed(0)
    hits = tests = 0
    for _ in range(3):
        order = torch.randperm(24, generator=generator).tolist()
        support = [[i for i in order if targets[i] == c][:3] for c in range(4)]
        centroids = torch.stack([F.normalize(embeddings[s].mean(dim=0), dim=0) for s in support])
        judged = [i for i in order if all(i not in s for s in support)]
        prediction = (embeddings[judged] @ centroids.T).argmax(dim=1)
        hits += int((prediction == targets[judged]).sum())
        tests += len(judged)
    assert float(curve.accuracy[curve.sizes.tolist().index(12)]) == pytest.approx(hits / tests)


def test_a_class_with_one_image_takes_part_and_is_not_judged():
    embeddings, targets = blobs(6)
    alone = torch.cat([targets, torch.tensor([4])])
    more = torch.cat([embeddings, F.normalize(torch.ones(1, 16), dim=1)])

    curve = learning_curve(Cosine(), more, alone)

    assert not curve.tested[:, -1].any()
    assert curve.sizes[0] == 5


def test_leave_one_out_is_the_last_point_when_classes_have_shots_enough():
    few, many = blobs(4), blobs(12)
    right = torch.arange(48) < 36

    without = learning_curve(Cosine(), *few, leave_one_out=right[:16])
    curve = learning_curve(Cosine(), *many, leave_one_out=right)

    assert without.sizes[-1] == 12
    assert curve.sizes[-1] == 47
    assert curve.accuracy[-1] == pytest.approx(0.75)


def test_a_seed_gives_the_same_forecast():
    forecasts = [
        forecast(learning_curve(Cosine(), *blobs(10), seed=3), 80, seed=3) for _ in range(2)
    ]

    assert forecasts[0] == forecasts[1]


@pytest.mark.parametrize(("a", "b", "c"), [(0.95, 1.0, 0.5), (0.9, 2.0, 1.0), (1.0, 0.8, 0.3)])
def test_a_power_law_is_continued(a, b, c):
    curve = curve_of(a - b * SIZES.double() ** -c)

    prediction = forecast(curve, 180)

    assert prediction.accuracy.value == pytest.approx(a - b * 180**-c, abs=0.004)
    assert prediction.gain.value == pytest.approx(b * (90**-c - 180**-c), abs=0.004)
    assert prediction.accuracy.low <= prediction.accuracy.value <= prediction.accuracy.high


@pytest.mark.parametrize(
    "accuracy", [[0.5, 0.62, 0.66, 0.71, 0.70, 0.74], [0.9, 0.97, 0.98, 1.0, 1.0, 1.0]]
)
def test_the_fit_for_each_exponent_is_that_of_scipy(accuracy):
    y = torch.tensor(accuracy, dtype=torch.float64)

    current, future, _ = module._fits(curve_of(y), y[None], 180)

    weights = (SIZES / SIZES.sum()).double().sqrt().numpy()
    for n, c in enumerate(module.EXPONENTS.tolist()):
        falls = ((SIZES / 90).double() ** -c).numpy()
        fit = least_squares(
            lambda p, x=falls: weights * (p[0] - p[1] * x - y.numpy()),
            [0.7, 0.1],
            bounds=([-10, 0], [1, 10]),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        a, b = fit.x
        assert float(current[0, n]) == pytest.approx(a - b, abs=1e-4)
        assert float(future[0, n]) == pytest.approx(a - b * 2**-c, abs=1e-4)


def test_a_flat_curve_promises_nothing():
    prediction = forecast(curve_of(torch.full((6,), 0.8, dtype=torch.float64)), 180)

    assert prediction.accuracy.value == pytest.approx(0.8, abs=1e-6)
    assert prediction.gain.value == pytest.approx(0, abs=1e-6)


def test_fewer_images_make_a_wider_interval_and_no_error_in_few_is_no_certainty():
    y = 0.95 - 1.0 * SIZES.double() ** -0.5
    few, many = forecast(curve_of(y, 100), 180).accuracy, forecast(curve_of(y), 180).accuracy
    perfect = forecast(curve_of(torch.ones(6, dtype=torch.float64), 20), 180).accuracy

    assert few.high - few.low > 3 * (many.high - many.low)
    assert perfect.value == 1
    assert perfect.low < 0.99


def test_too_few_labels_are_told_what_is_missing():
    with pytest.raises(TooFewToForecast, match="got 8 images and 1 sizes"):
        forecast(learning_curve(Cosine(), *blobs(2)), 16)


def about(value: float, reach: float) -> Interval:
    return Interval(value, value - reach, value + reach)


@pytest.mark.parametrize(
    ("gain", "answer", "words"),
    [
        (about(0.002, 0.003), True, "hardly add more than 0.5 points"),
        (about(0.03, 0.02), False, "3.0 points more than now"),
        (about(0.005, 0.02), None, "may be 2.5 points"),
    ],
)
def test_enough_is_when_twice_the_labels_add_little(gain, answer, words):
    ahead = Forecast(200, about(0.9, 0.02), gain)

    verdict = enough(about(0.89, 0.03), ahead)

    assert verdict.enough is answer
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("target", "answer", "words"),
    [
        (0.85, True, "85.0 % are wanted"),
        (0.91, False, "91.0 % are wanted"),
        (0.99, False, "fine-tuning may"),
    ],
)
def test_enough_is_when_what_is_wanted_is_reached(target, answer, words):
    ahead = Forecast(200, about(0.9, 0.02), about(0.0, 0.001))

    verdict = enough(about(0.89, 0.03), ahead, target=target)

    assert verdict.enough is answer
    assert words in verdict.reason


def test_images_of_classes_without_a_label_are_never_enough():
    ahead = Forecast(200, about(0.9, 0.02), about(0.0, 0.001))

    verdict = enough(about(0.99, 0.01), ahead, about(0.1, 0.05))

    assert verdict.enough is False
    assert "no label yet" in verdict.reason


def test_without_a_forecast_it_cannot_be_told():
    assert enough(about(0.9, 0.1), None).enough is None
