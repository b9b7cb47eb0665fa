"""Transduction, judged beside a head on labeled images that neither saw the label of."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.evaluation.comparison import Verdict, compare
from models.evaluation.folds import Fold, stratified_folds
from models.heads import Head
from models.heads.calibration import fit_temperature
from models.transduction.alpha_tim import AlphaTim, PartlyLabeled, Transduction, TransductionEpoch

FOLDS = 5  # at most; fewer where a class has fewer images


REPEATS = 3  # with other folds


class TransductionProgress(NamedTuple):
    """An epoch, and where it stands in the whole."""

    run: int  # from 1
    runs: int
    fold: int | None  # from 1; None: with all labels
    epoch: TransductionEpoch


class CrossValidatedTransduction(Iterator[TransductionProgress]):
    """Transduction without the labels of each fold, and at last with all; an epoch at a time.

    A fold's images join the pool, so that they are seen as the pool is: without a label. Classes
    of one shot are learned from and never judged; with fewer than two others nothing is.
    """

    def __init__(self, images: PartlyLabeled, options: AlphaTim) -> None:
        self._images, self._options = images, options
        self.judged, self._folds = _folds(images.targets)
        self._scores = torch.full((REPEATS, len(images.targets), images.classes), torch.nan)
        self._at = 0
        self._current = self._begin()

    def __next__(self) -> TransductionProgress:
        while True:
            epoch = next(self._current, None)
            fold = self._at % len(self._folds[0]) + 1 if self._at < self._last else None
            if epoch is not None:
                return TransductionProgress(self._at + 1, self._last + 1, fold, epoch)
            if fold is None:
                raise StopIteration
            repeat, test = self._at // len(self._folds[0]), self._fold().test
            self._scores[repeat, test] = self._current.scores(self._images.labeled[test])
            self._at += 1
            self._current = self._begin()

    def judge(self, head: Head) -> Verdict | None:
        """Whether this is better than a head, once all epochs are done; None: nothing to judge on.

        Each image is classified by both as learned without its fold.
        """
        if not self._folds:
            return None
        before = torch.full((REPEATS, len(self._images.targets)), -1)
        for repeat, folds in enumerate(self._folds):
            for fold in folds:
                before[repeat, fold.test] = self._classify(head, fold)
        right, right_before = (
            (predicted == self._images.targets).float().mean(dim=0)[self.judged]
            for predicted in (self._scores.argmax(dim=2), before)
        )
        return compare(right, right_before, _dense(self._images.targets[self.judged]))

    @property
    def temperature(self) -> float:
        """What makes the scores of images whose label was not seen honest probabilities."""
        scores, targets = self._scores[0, self.judged], self._images.targets[self.judged]
        return fit_temperature(scores, targets, self._options.temperature)

    def scores(self, rows: Int[Tensor, " Q"]) -> Float[Tensor, "Q C"]:
        """Of images by what was learned with all labels; their softmax takes `temperature`."""
        return self._current.scores(rows)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, besides what the constructor was given."""
        return {"at": self._at, "scores": self._scores, "current": self._current.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._at, self._scores = state["at"], state["scores"]
        self._current = self._begin()
        self._current.load(state["current"])

    @property
    def _last(self) -> int:
        """The run with all labels."""
        return sum(len(folds) for folds in self._folds)

    def _fold(self) -> Fold:
        return [fold for folds in self._folds for fold in folds][self._at]

    def _begin(self) -> Transduction:
        images = self._images
        if self._at < self._last:
            train, test = self._fold()
            images = replace(
                images,
                unlabeled=torch.cat([images.unlabeled, images.labeled[test]]),
                labeled=images.labeled[train],
                targets=images.targets[train],
            )
        return Transduction(images, self._options)

    def _classify(self, head: Head, fold: Fold) -> Int[Tensor, " Q"]:
        images = self._images
        train, test = (images.embeddings[images.labeled[rows]] for rows in fold)
        fitted = head.fit(train, images.targets[fold.train], images.classes, images.mean)
        return fitted.probabilities(test).argmax(dim=1)


def _folds(targets: Int[Tensor, " U"]) -> tuple[Int[Tensor, " K"], list[list[Fold]]]:
    """Positions of classes with two shots, and folds of these beside all the others."""
    shots = torch.bincount(targets)
    if int((shots > 1).sum()) < 2:
        return torch.empty(0, dtype=torch.long), []
    judged = (shots[targets] > 1).nonzero().flatten()
    classes = _dense(targets[judged])
    count = min(FOLDS, int(torch.bincount(classes).min()))
    singles = (shots[targets] == 1).nonzero().flatten()
    return judged, [
        [
            Fold(torch.cat([judged[fold.train], singles]), judged[fold.test])
            for fold in stratified_folds(classes, count, seed)
        ]
        for seed in range(REPEATS)
    ]


def _dense(targets: Int[Tensor, " K"]) -> Int[Tensor, " K"]:
    """The classes that occur, numbered from 0."""
    unique = targets.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    numbered: Tensor = unique[1]
    return numbered
