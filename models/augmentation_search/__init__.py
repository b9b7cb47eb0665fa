"""Searches for augmentations, judged on a cheap proxy of fine-tuning."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from models.augmentation_search.candidates import NOTHING, PolicyCandidate, PolicyScore
from models.augmentation_search.proxy import Proxy
from models.evaluation.comparison import Verdict, compare


class PolicyTrial(NamedTuple):
    """One candidate that was tried."""

    number: int  # from 1
    of: int
    candidate: PolicyCandidate
    judged: PolicyScore


class SearchResult(NamedTuple):
    """What a search ended with."""

    candidate: PolicyCandidate
    judged: PolicyScore
    right: Float[Tensor, " M"]  # as judged by candidates that were chosen without each image
    verdict: Verdict  # of that, against what the candidate would replace
    against: str  # which is this


@runtime_checkable
class Search(Protocol):
    """The options of one search."""

    def search(self, proxy: Proxy) -> Iterator[PolicyTrial]:
        """Try one candidate after the other; what comes next depends on the judgements alone."""
        ...

    def choose(self, proxy: Proxy, trials: Sequence[PolicyTrial]) -> SearchResult:
        """What came out, once all are tried."""
        ...


def best(proxy: Proxy, trials: Sequence[PolicyTrial]) -> SearchResult:
    """The trial with the best score, against no augmentation.

    What is compared is honest: the images of each fold are judged by the trial that did best on the
    other folds, so that the accuracy is not flattered by the choice.
    """
    winner = max(trials, key=lambda trial: trial.judged.score)
    right = torch.zeros(len(proxy.targets))
    for fold in proxy.folds:
        selected = max(trials, key=lambda trial: float(trial.judged.likelihood[fold.train].mean()))
        right[fold.test] = selected.judged.right[fold.test]
    verdict = compare(right, proxy.judge(NOTHING).right, proxy.targets)
    return SearchResult(winner.candidate, winner.judged, right, verdict, "nothing")
