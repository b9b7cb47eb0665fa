"""Whether a candidate is better than what it would replace, judged on images that neither saw."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

RESAMPLES = 2000  # of a bootstrap: an error of 0.01 in a probability


FLIPS = 10_000  # of a randomisation test: an error of 0.001 in a chance of 0.01


ROUNDING = 1e-4  # in a sum of gains


RECALL_LOSS = 0.10  # at most, of any class


class Verdict(NamedTuple):
    """Whether a candidate is better than what it would replace."""

    better: bool
    probability: float  # that its accuracy is higher, by the bootstrap
    accuracy: float  # of the candidate, 0..1
    before: float  # of what it would replace
    worst_recall_loss: float  # of any class; negative when all gained
    reason: str


def compare(
    candidate: Float[Tensor, " M"],
    before: Float[Tensor, " M"],
    targets: Int[Tensor, " M"],
    *,
    confidence: float = 0.9,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate by which of the same images each got right.

    By a paired bootstrap (Koehn, 2004, https://aclanthology.org/W04-3250): the images are drawn
    again with replacement, and what is counted is how often the candidate is ahead; draws that end
    level count half. No class may lose more than `RECALL_LOSS` of its recall, where a test of its
    images proves a loss: one image of five proves none. Of many classes one seems to lose by
    chance, so that the confidence holds for all of them together (Bonferroni).

    Args:
        candidate: how often each image was classified right, 0..1, by a model that never saw it.
        before: the same, of what the candidate would replace.
        confidence: the least probability that makes it better.
    """
    gains = candidate - before
    generator = Generator().manual_seed(seed)
    probability = _probability_of_gain(gains, generator)
    counts = torch.bincount(targets)
    losses = -torch.zeros(len(counts)).index_add_(0, targets, gains) / counts.clamp_min(1)
    worst = float(losses.max())
    chance_alone = (1 - confidence) / len(counts)
    dear = [
        float(losses[label])
        for label in (losses > RECALL_LOSS + 1e-6).nonzero().flatten()
        if _chance_of_loss(gains[targets == label], generator) <= chance_alone
    ]
    if probability < confidence:
        reason = (
            f"the candidate is better with a probability of {probability:.2f}, not {confidence}"
        )
    elif dear:
        reason = f"a class would lose {100 * max(dear):.0f} points of its recall"
    else:
        reason = f"the candidate is better with a probability of {probability:.2f}"
    return Verdict(
        probability >= confidence and not dear,
        probability,
        float(candidate.mean()),
        float(before.mean()),
        worst,
        reason,
    )


def _probability_of_gain(gains: Float[Tensor, " M"], generator: Generator) -> float:
    """How often the sum is positive when images are drawn again; zero counts half."""
    totals = torch.stack(
        [
            gains[torch.randint(len(gains), gains.shape, generator=generator)].sum()
            for _ in range(RESAMPLES)
        ]
    )
    return share_ahead(totals)


def share_ahead(totals: Float[Tensor, " K"]) -> float:
    """The share of draws in which a candidate is ahead, 0..1; draws that end level count half."""
    return float((totals > 0).float().mean() + (totals == 0).float().mean() / 2)


def _chance_of_loss(gains: Float[Tensor, " M"], generator: Generator) -> float:
    """How often random signs of the gains make a loss as large; as large exactly counts half.

    A randomisation test (Fisher, 1935, The Design of Experiments, section 21). It holds for any
    number of images, while a bootstrap of five that all lose a little would be sure.
    """
    signs = torch.randint(2, (FLIPS, len(gains)), generator=generator) * 2.0 - 1
    totals, observed = signs @ gains, gains.sum()
    level = (totals - observed).abs() < ROUNDING
    return float(((totals < observed) & ~level).float().mean() + level.float().mean() / 2)


def compare_on_episodes(
    candidate: Float[Tensor, "R C"],
    before: Float[Tensor, "R C"],
    asked: Float[Tensor, "R C"],
    *,
    confidence: float = 0.9,
    seed: int = 0,
) -> Verdict:
    """Judge a candidate by the queries of the same episodes that each got right, by label.

    Episodes of few labels are one task drawn often, so labels are drawn again with replacement as
    well as episodes (the pigeonhole bootstrap of Owen, 2007,
    https://doi.org/10.1214/07-AOAS122); what is counted is how often the candidate is ahead, and
    draws that end level count half.

    Args:
        asked: how many queries there were.
        confidence: the least probability that makes it better.
    """
    judged = asked.sum(dim=0) > 0
    gains = (candidate - before)[:, judged]
    probability = share_ahead(redrawn_gains(gains, Generator().manual_seed(seed)))
    losses = -gains.sum(dim=0) / asked[:, judged].sum(dim=0)
    better = probability >= confidence
    text = f"the candidate is better with a probability of {probability:.2f}"
    return Verdict(
        better,
        probability,
        float(candidate.sum() / asked.sum()),
        float(before.sum() / asked.sum()),
        float(losses.max()),
        text if better else f"{text}, not {confidence}",
    )


def redrawn_gains(gains: Float[Tensor, "R C"], generator: Generator) -> Float[Tensor, " K"]:
    """The sums over episodes and labels, where both are drawn again."""
    episodes, labels = (_times_drawn(size, generator) for size in gains.shape)
    totals: Tensor = ((episodes @ gains) * labels).sum(dim=1)
    return totals


def _times_drawn(size: int, generator: Generator) -> Float[Tensor, "K R"]:
    """How often each of so many is drawn, in each of many draws with replacement."""
    draws = torch.randint(size, (RESAMPLES, size), generator=generator)
    ones = torch.ones(draws.shape)
    return torch.zeros(draws.shape).scatter_add_(1, draws, ones)
