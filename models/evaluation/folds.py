"""Folds of labeled images, and predictions for each by what learned from the others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from models.heads import Head


class Fold(NamedTuple):
    """Positions of the images to learn from, and of those to judge with."""

    train: Int[Tensor, " K"]
    test: Int[Tensor, " Q"]


def stratified_folds(targets: Int[Tensor, " M"], count: int, seed: int = 0) -> list[Fold]:
    """Folds in which each class has its share; every image is judged once.

    Raises:
        ValueError: a class has fewer images than there are folds.
    """
    fewest = int(torch.bincount(targets).min())
    if fewest < count:
        raise ValueError(f"{count} folds need {count} images of each class; one has {fewest}")
    generator = Generator().manual_seed(seed)
    fold_of = torch.empty_like(targets)
    offset = 0
    for label in range(int(targets.max()) + 1):
        members = (targets == label).nonzero().squeeze(1)
        shuffled = members[torch.randperm(len(members), generator=generator)]
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
