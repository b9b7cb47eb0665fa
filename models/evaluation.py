"""How good an encoder is, judged on images that it never saw."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from models.heads import Head

RESAMPLES = 2000  # of a bootstrap: an error of 0.01 in a probability
FLIPS = 10_000  # of a randomisation test: an error of 0.001 in a chance of 0.01
ROUNDING = 1e-4  # in a sum of gains
RECALL_LOSS = 0.10  # at most, of any class


class Fold(NamedTuple):
    """Positions of the images to learn from, and of those to judge with."""

    train: Int[Tensor, " K"]
    test: Int[Tensor, " Q"]


class Verdict(NamedTuple):
    """Whether a candidate is better than what it would replace."""

    better: bool
    probability: float  # that its accuracy is higher, by the bootstrap
    accuracy: float  # of the candidate, 0..1
    before: float  # of what it would replace
    worst_recall_loss: float  # of any class; negative when all gained
    reason: str


def stratified_folds(targets: Int[Tensor, " M"], count: int, seed: int = 0) -> list[Fold]:
    """Folds in which each class has its share; every image is judged once.

    Raises:
        ValueError: a class has fewer images than there are folds.
    """
    fewest = int(torch.bincount(targets).min())
    if fewest < count:
        raise ValueError(f"{count} folds need {count} images of each class; one has {fewest}")
    chance = Generator().manual_seed(seed)
    fold_of = torch.empty_like(targets)
    offset = 0
    for one in range(int(targets.max()) + 1):
        members = (targets == one).nonzero().squeeze(1)
        shuffled = members[torch.randperm(len(members), generator=chance)]
        # Classes go on where the one before ended, so that folds are of one size.
        fold_of[shuffled] = (torch.arange(len(members)) + offset) % count
        offset += len(members)
    return [
        Fold((fold_of != n).nonzero().squeeze(1), (fold_of == n).nonzero().squeeze(1))
        for n in range(count)
    ]


def predict(
    head: Head,
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    repetitions: Sequence[Sequence[Fold]],
) -> Int[Tensor, "R M"]:
    """The class of each image in each repetition by the head, fitted to the other folds."""
    predicted = torch.full((len(repetitions), len(targets)), -1)
    for repeat, folds in enumerate(repetitions):
        for fold in folds:
            predicted[repeat, fold.test] = classify(head, embeddings, targets, fold)
    return predicted


def classify(
    head: Head, embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"], fold: Fold
) -> Int[Tensor, " Q"]:
    """The class of each image of a fold by the head, fitted to the others."""
    mean, classes = embeddings.mean(dim=0), int(targets.max()) + 1
    fitted = head.fit(embeddings[fold.train], targets[fold.train], classes, mean)
    return fitted.probabilities(embeddings[fold.test]).argmax(dim=1)


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
    chance = Generator().manual_seed(seed)
    probability = _probability_of_gain(gains, chance)
    counts = torch.bincount(targets)
    losses = -torch.zeros(len(counts)).index_add_(0, targets, gains) / counts.clamp_min(1)
    worst = float(losses.max())
    chance_alone = (1 - confidence) / len(counts)
    dear = [
        float(losses[one])
        for one in (losses > RECALL_LOSS + 1e-6).nonzero().flatten()
        if _chance_of_loss(gains[targets == one], chance) <= chance_alone
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


def _probability_of_gain(gains: Float[Tensor, " M"], chance: Generator) -> float:
    """How often the sum is positive when images are drawn again; zero counts half."""
    totals = torch.stack(
        [
            gains[torch.randint(len(gains), gains.shape, generator=chance)].sum()
            for _ in range(RESAMPLES)
        ]
    )
    return float((totals > 0).float().mean() + (totals == 0).float().mean() / 2)


def _chance_of_loss(gains: Float[Tensor, " M"], chance: Generator) -> float:
    """How often random signs of the gains make a loss as large; as large exactly counts half.

    A randomisation test (Fisher, 1935, The Design of Experiments, section 21). It holds for any
    number of images, while a bootstrap of five that all lose a little would be sure.
    """
    signs = torch.randint(2, (FLIPS, len(gains)), generator=chance) * 2.0 - 1
    totals, observed = signs @ gains, gains.sum()
    level = (totals - observed).abs() < ROUNDING
    return float(((totals < observed) & ~level).float().mean() + level.float().mean() / 2)
