"""Which classes are taken for which."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Pair(NamedTuple):
    """Images of one class that were taken for another."""

    actual: int
    predicted: int
    images: int
    share: float  # of the images of `actual`


def confusion_matrix(
    targets: Int[Tensor, " M"], predicted: Int[Tensor, " M"], classes: int
) -> Int[Tensor, "C C"]:
    """How many images of each class (row) were predicted as each class (column)."""
    flat = torch.bincount(targets * classes + predicted, minlength=classes**2)
    return flat.view(classes, classes)


def recall(matrix: Int[Tensor, "C C"]) -> Float[Tensor, " C"]:
    """The share of each class's images that was found; NaN for a class without images."""
    return matrix.diagonal().double() / matrix.sum(dim=1)


def precision(matrix: Int[Tensor, "C C"]) -> Float[Tensor, " C"]:
    """The share of each class's predictions that was right; NaN for one never predicted."""
    return matrix.diagonal().double() / matrix.sum(dim=0)


def confused_pairs(matrix: Int[Tensor, "C C"], count: int) -> list[Pair]:
    """The `count` most frequent confusions, most frequent first; ties keep class order."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:count]
    actual, predicted = order // len(matrix), order % len(matrix)
    shots = matrix.sum(dim=1)
    return [
        Pair(i, j, int(matrix[i, j]), int(matrix[i, j]) / int(shots[i]))
        for i, j in zip(actual.tolist(), predicted.tolist(), strict=True)
        if i != j and matrix[i, j] > 0
    ]
