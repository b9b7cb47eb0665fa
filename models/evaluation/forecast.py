"""How accuracy has grown with the labels, what twice as many would bring, and is it enough.

The curve comes from the labels alone: parts of the support of several sizes, many times, each
judged on the images that it left out. Through it goes the inverse power law

    accuracy(n) = a - b n^-c,  a <= 1, b >= 0

that learning curves of classifiers follow (Cortes et al., 1993,
https://proceedings.neurips.cc/paper/1993/hash/1aa48fc4880bb0c9b8a3bf979d3b917e-Abstract.html; for
sample sizes in practice, with weights that grow with n as here: Figueroa et al., 2012,
https://doi.org/10.1186/1472-6947-12-8; how often it fails: Viering & Loog, 2023,
https://arxiv.org/abs/2103.10948). Few points hardly determine c, so that the fits of all exponents
between 0.1 and 1.5 count by their likelihood.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from models.evaluation.intervals import Interval
from models.heads import Head

SHARES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)  # of the images of each class


MOST_IMAGES = 20_000  # that parts are drawn from, and of them


MOST_JUDGED = 2_000  # by each part


FEWEST_IMAGES, FEWEST_SIZES = 20, 4  # for a forecast


FEWEST_SHOTS = 10  # on average, for leave-one-out to be a point of the curve


EXPONENTS = torch.linspace(0.1, 1.5, 29, dtype=torch.float64)


ACROSS = 80 / 100  # the confidence of the interval


DRAWS = 1000


class TooFewToForecast(ValueError):
    """The labels do not make a curve; the message says what is missing."""


class LearningCurve(NamedTuple):
    """Accuracy by the size of the support, image by image."""

    sizes: Int[Tensor, " H"]  # labeled images, all classes together; increasing
    tested: Float[Tensor, "H M"]  # how often each image was judged
    right: Float[Tensor, "H M"]  # and how often it was right
    deviation: Float[Tensor, " H"]  # standard deviation of accuracy over supports of that size

    @property
    def accuracy(self) -> Float[Tensor, " H"]:
        """The share of right answers at each size."""
        return self.right.sum(dim=1) / self.tested.sum(dim=1)


class Forecast(NamedTuple):
    """Accuracy at more labels than there are."""

    labels: int
    accuracy: Interval  # with a confidence of 80 %
    gain: Interval  # over the accuracy now


class Sufficiency(NamedTuple):
    """Whether the labels are enough; None: it cannot be told yet."""

    enough: bool | None
    reason: str


def learning_curve(
    head: Head,
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    *,
    mean: Float[Tensor, " D"] | None = None,
    leave_one_out: Bool[Tensor, " M"] | None = None,
    repetitions: int = 20,
    seed: int = 0,
) -> LearningCurve:
    """Judge the head on the images that parts of the support leave out.

    Each part has the same share of every class, at least one image and never all of two or more.
    A class with one image takes part and is not judged.

    Args:
        leave_one_out: whether each image is right by the head fitted to all others: the last point.
            Below `FEWEST_SHOTS` images a class it is left out: the class of the image is then the
            only one that lacks a shot, which costs points that no part of the support pays.
    """
    generator = Generator().manual_seed(seed)
    classes = int(targets.max()) + 1
    sizes = torch.zeros(len(SHARES), dtype=torch.int64)
    tested = torch.zeros(len(SHARES), len(targets), dtype=torch.float64)
    right = torch.zeros_like(tested)
    accuracies = torch.zeros(len(SHARES), repetitions, dtype=torch.float64)
    chances = torch.zeros_like(accuracies)  # variance of each from the images it was judged on
    for repetition in range(repetitions):
        rows = torch.randperm(len(targets), generator=generator)[:MOST_IMAGES]
        for h, (learned, judged) in enumerate(_parts(rows, targets[rows], classes)):
            if not len(judged):
                continue
            present, codes = torch.unique(targets[learned], return_inverse=True)
            fitted = head.fit(embeddings[learned], codes, len(present), mean)
            likeliest = fitted.probabilities(embeddings[judged]).argmax(dim=1)
            hit = (present[likeliest] == targets[judged]).double()
            sizes[h] = len(learned)
            tested[h, judged] += 1
            right[h, judged] += hit
            accuracies[h, repetition] = hit.mean()
            chances[h, repetition] = hit.mean() * (1 - hit.mean()) / len(judged)
    beyond = accuracies.var(dim=1) - chances.mean(dim=1)
    curve = LearningCurve(sizes, tested, right, beyond.clamp_min(0).sqrt())
    curve = _of_distinct_sizes(curve)
    few = len(targets) < FEWEST_SHOTS * len(torch.unique(targets))
    if leave_one_out is None or few or not len(curve.sizes):
        return curve
    return _with_leave_one_out(curve, targets, leave_one_out)


def forecast(curve: LearningCurve, labels: int, *, seed: int = 0) -> Forecast:
    """Accuracy when there are `labels` of them, by the power law through the curve.

    The interval holds what is uncertain in the labels at hand, in the exponent, and in which images
    are labeled next. For the first the images of the curve are weighted anew by a Bayesian
    bootstrap (Rubin, 1981, https://doi.org/10.1214/aos/1176345338), beside half an image that is
    always right and half a one that never is: without an error in 20, none is not yet certain.

    Raises:
        TooFewToForecast: the curve has too few images or sizes.
    """
    images = int((curve.tested.sum(dim=0) > 0).sum())
    if images < FEWEST_IMAGES or len(curve.sizes) < FEWEST_SIZES:
        raise TooFewToForecast(
            f"a forecast needs {FEWEST_IMAGES} images of labels that have at least two, and labels "
            f"that have several: got {images} images and {len(curve.sizes)} sizes of support"
        )
    generator = Generator().manual_seed(seed)
    current, future, likelihood = _fits(curve, curve.accuracy[None], labels)
    value = min(float((future * likelihood).sum()), 1.0)
    gained = float(((future - current) * likelihood).sum())
    current, future, likelihood = _fits(curve, _redrawn(curve, generator), labels)
    picks = torch.multinomial(likelihood, 1, generator=generator)  # (R, 1)
    current, future = current.gather(1, picks).squeeze(1), future.gather(1, picks).squeeze(1)
    # Which images come next shifts accuracy less, the more there are.
    deviation = curve.deviation[-1] * (curve.sizes[-1] / labels).sqrt()
    noise = deviation * torch.randn(DRAWS, dtype=torch.float64, generator=generator)
    return Forecast(
        labels,
        _interval(value, (future + noise).clamp(0, 1)),
        _interval(gained, future - current + noise),
    )


def enough(
    accuracy: Interval,
    forecast: Forecast | None,
    unseen: Interval | None = None,
    *,
    target: float | None = None,
    gain: float = 0.01,
    missing: float = 0.02,
) -> Sufficiency:
    """A plain answer, and its reason.

    Args:
        accuracy: now.
        unseen: the share of images whose class has no label yet.
        target: the accuracy that is wanted; None: as much as labels can give.
        gain: what twice the labels must add to be worth it.
        missing: the share of images of unseen classes that is no obstacle.
    """
    if unseen is not None and unseen.low > missing:
        return Sufficiency(
            False,
            f"about {_percent(unseen.value)} of images may be of classes that have no label yet",
        )
    if target is not None and accuracy.low >= target:
        return Sufficiency(
            True,
            f"accuracy is {_percent(accuracy.value)} now, and at least {_percent(accuracy.low)} "
            f"by its interval; {_percent(target)} are wanted",
        )
    if forecast is None:
        return Sufficiency(None, "there are too few labels for a learning curve")
    if target is not None:
        return _short_of(target, forecast)
    return _worth_more(gain, forecast)


def _short_of(target: float, forecast: Forecast) -> Sufficiency:
    """The labels are not enough for the target; whether more labels would be."""
    if forecast.accuracy.high < target:
        return Sufficiency(
            False,
            f"{_doubled(forecast)}, still under the wanted {_percent(target)}: more labels "
            "alone will hardly do, another encoder or fine-tuning may",
        )
    return Sufficiency(False, f"{_doubled(forecast)}; {_percent(target)} are wanted")


def _worth_more(gain: float, forecast: Forecast) -> Sufficiency:
    """Whether twice the labels would add at least `gain`."""
    if forecast.gain.high < gain:
        return Sufficiency(
            True, f"twice the labels would hardly add more than {_points(forecast.gain.high)}"
        )
    if forecast.gain.value >= gain:
        return Sufficiency(
            False,
            f"{_doubled(forecast)}: {_points(forecast.gain.value)} more than now",
        )
    return Sufficiency(
        None,
        f"twice the labels would probably add {_points(forecast.gain.value)}, but it may be "
        f"{_points(forecast.gain.high)}",
    )


def _doubled(forecast: Forecast) -> str:
    accuracy = forecast.accuracy
    return (
        f"{forecast.labels} labels would give about {_percent(accuracy.value)} "
        f"({_percent(accuracy.low)} to {_percent(accuracy.high)})"
    )


def _parts(
    rows: Int[Tensor, " M"], targets: Int[Tensor, " M"], classes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """By each share, the rows of a part of the support and those that it leaves out to judge by."""
    rank, shots = _ranks(targets, classes)
    for share in SHARES:
        sizes = _part_sizes(shots, share)[targets]
        yield rows[rank < sizes], rows[rank >= sizes][:MOST_JUDGED]


def _with_leave_one_out(
    curve: LearningCurve, targets: Int[Tensor, " M"], right: Bool[Tensor, " M"]
) -> LearningCurve:
    """The curve with one more point, by the head fitted to all images but the judged one."""
    judged = torch.bincount(targets)[targets] > 1
    return LearningCurve(
        torch.cat([curve.sizes, torch.tensor([len(targets) - 1])]),
        torch.cat([curve.tested, judged[None].double()]),
        torch.cat([curve.right, (judged & right)[None].double()]),
        torch.cat([curve.deviation, curve.deviation[-1:]]),
    )


def _ranks(targets: Int[Tensor, " M"], classes: int) -> tuple[Int[Tensor, " M"], Int[Tensor, " C"]]:
    """The place of each image among those of its class, and how many each class has."""
    order = targets.argsort(stable=True)
    shots = torch.bincount(targets, minlength=classes)
    starts = shots.cumsum(dim=0) - shots
    rank = torch.empty_like(targets)
    rank[order] = torch.arange(len(targets)) - starts[targets[order]]
    return rank, shots


def _part_sizes(shots: Int[Tensor, " C"], share: float) -> Int[Tensor, " C"]:
    """How many images of each class a part takes."""
    sizes = (share * shots).round().long().clamp_min(1)
    return torch.minimum(sizes, (shots - 1).clamp_min(1))


def _of_distinct_sizes(curve: LearningCurve) -> LearningCurve:
    """Of shares that round to the same parts, the first; those that judge nothing left out."""
    before = torch.cat([torch.tensor([0]), curve.sizes[:-1].cummax(dim=0).values])
    distinct = curve.sizes > before
    return LearningCurve(*(part[distinct] for part in curve))


def _redrawn(curve: LearningCurve, generator: Generator) -> Float[Tensor, "R H"]:
    """The curve for other images of the same kind."""
    judged = curve.tested.sum(dim=0) > 0
    weights = torch.empty(DRAWS, int(judged.sum()), dtype=torch.float64)
    weights.exponential_(generator=generator)
    # A gamma variable of shape 1/2 is half a squared normal one.
    beside = torch.randn(2, DRAWS, 1, dtype=torch.float64, generator=generator).square() / 2
    often = curve.tested.sum(dim=1) / judged.sum()  # (H,) what half an image weighs at each size
    right = weights @ curve.right[:, judged].T + beside[0] * often
    return right / (weights @ curve.tested[:, judged].T + beside.sum(dim=0) * often)


def _fits(
    curve: LearningCurve, accuracy: Float[Tensor, "R H"], labels: int
) -> tuple[Float[Tensor, "R W"], Float[Tensor, "R W"], Float[Tensor, "R W"]]:
    """By each exponent: accuracy now and with `labels`, and how likely the exponent is.

    Weighted least squares in closed form; where it leaves the bounds, the best on them.
    """
    sizes = curve.sizes.double()
    weights = sizes / sizes.sum()
    falls = (sizes / sizes[-1]) ** -EXPONENTS[:, None]  # (W, H)
    mean_fall, mean = falls @ weights, accuracy @ weights  # (W,), (R,)
    varied = (falls - mean_fall[:, None]).square() @ weights
    together = (accuracy - mean[:, None]) @ ((falls - mean_fall[:, None]) * weights).T
    b = (-together / varied).clamp_min(0)  # (R, W)
    a = mean[:, None] + b * mean_fall
    at_most = a > 1  # accuracy = 1 - b n^-c then
    bounded = (1 - accuracy) @ (falls * weights).T / (falls.square() @ weights)
    a, b = a.clamp_max(1), torch.where(at_most, bounded, b)
    errors = accuracy[:, None] - (a[..., None] - b[..., None] * falls)  # (R, W, H)
    squared = errors.square() @ weights
    # The noise about the curve is unknown: its likelihood is the one with the variance profiled
    # out, of an error of a tenth of a point at least.
    freedom = max(len(sizes) - 2, 1)
    likelihood = ((squared + 1e-6) ** (-freedom / 2)).double()
    likelihood = likelihood / likelihood.sum(dim=1, keepdim=True)
    later = (labels / sizes[-1]) ** -EXPONENTS
    return (a - b).clamp(0, 1), (a - b * later).clamp(0, 1), likelihood


def _interval(value: float, draws: Float[Tensor, " R"]) -> Interval:
    low, high = draws.quantile(torch.tensor([(1 - ACROSS) / 2, (1 + ACROSS) / 2]).double()).tolist()
    return Interval(value, min(low, value), max(high, value))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
