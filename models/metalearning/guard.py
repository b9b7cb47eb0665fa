"""Whether a candidate is better at labels that are new to it, judged on the same episodes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

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
