"""Whether a candidate is better at labels that are new to it, judged on the same episodes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from models.evaluation.comparison import RESAMPLES, Verdict, share_ahead
from models.heads import Head
from models.metalearning.episodes import Episode


def correct_answers(
    head: Head, embeddings: Float[Tensor, "M D"], episodes: Sequence[Episode], classes: int
) -> Float[Tensor, "R C"]:
    """How many queries of each label a head gets right in each episode, fitted to its support.

    Args:
        embeddings: of all images that positions in episodes count.
        classes: how many labels there are; those that an episode does not have get none right.
    """
    mean = embeddings.mean(dim=0)
    right = torch.zeros(len(episodes), classes)
    for row, (labels, support, query) in enumerate(episodes):
        truth = torch.arange(len(labels))
        fitted = head.fit(
            embeddings[support.flatten()], truth.repeat_interleave(support.shape[1]), len(labels),
            mean,
        )  # fmt: skip
        answers = fitted.scores(embeddings[query.flatten()]).argmax(dim=1).view_as(query)
        right[row, labels] = (answers == truth[:, None]).float().sum(dim=1)
    return right


def queries_asked(episodes: Sequence[Episode], classes: int) -> Float[Tensor, "R C"]:
    """How many queries of each label an episode has."""
    asked = torch.zeros(len(episodes), classes)
    for row, episode in enumerate(episodes):
        asked[row, episode.labels] = float(episode.query.shape[1])
    return asked


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
    probability = share_ahead(_redrawn(gains, Generator().manual_seed(seed)))
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


def _redrawn(gains: Float[Tensor, "R C"], generator: Generator) -> Float[Tensor, " K"]:
    """The sums over episodes and labels, where both are drawn again."""
    episodes, labels = (_times_drawn(size, generator) for size in gains.shape)
    totals: Tensor = ((episodes @ gains) * labels).sum(dim=1)
    return totals


def _times_drawn(size: int, generator: Generator) -> Float[Tensor, "K R"]:
    """How often each of so many is drawn, in each of many draws with replacement."""
    draws = torch.randint(size, (RESAMPLES, size), generator=generator)
    ones = torch.ones(draws.shape)
    return torch.zeros(draws.shape).scatter_add_(1, draws, ones)
