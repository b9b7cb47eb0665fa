"""Crop strengths for single classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from models.augmentation.kinds.geometric import Geometric
from models.augmentation_search import PolicyTrial, SearchResult
from models.augmentation_search.candidates import Policy, PolicyCandidate, PolicyScore
from models.augmentation_search.proxy import Proxy
from models.augmentation_search.searches import searches
from models.evaluation.comparison import RESAMPLES, compare

DOUBT = 0.1  # at most, that the crop does not move a class's false positives


SHARE = 10  # one in so many classes may have its own crop, but always one


LOSS = 0.003  # of balanced accuracy, at most


MOST = 20  # crops


@searches.register
@dataclass(frozen=True, kw_only=True)
class PerClass:
    """Give few classes a crop of their own: those that take images of others (Kirichenko, 2023).

    Strong crops cost a class accuracy when they make another look like it. What helps is to change
    the crop of that other class, which absorbs the images; it shows by false positives that the
    crop moves. Each of them gets the crop with the fewest false positives and false negatives.

    https://arxiv.org/abs/2401.01764
    """

    crops: tuple[float, ...] = (1.0, 0.75, 0.5, 0.3, 0.15)  # least shares of the area to try
    geometric: Geometric = field(default_factory=Geometric)  # of all other classes

    def __post_init__(self) -> None:
        if not 1 <= len(self.crops) <= MOST:
            raise ValueError(f"give from 1 to {MOST} crops, got {len(self.crops)}")
        for crop in self.crops:
            replace(self.geometric, crop=crop)

    def search(self, proxy: Proxy) -> Iterator[PolicyTrial]:
        strengths = self._strengths()
        count = len(strengths) + 1
        for number, crop in enumerate(strengths, start=1):
            candidate = PolicyCandidate(self._policy(crop))
            yield PolicyTrial(number, count, candidate, proxy.judge(candidate))
        candidate = self._propose(proxy, torch.arange(len(proxy.targets)))
        yield PolicyTrial(count, count, candidate, proxy.judge(candidate))

    def choose(self, proxy: Proxy, trials: Sequence[PolicyTrial]) -> SearchResult:
        """The last trial where it is better than one crop for all, otherwise that.

        The images of each fold are judged by what is proposed without them.
        """
        default = PolicyCandidate((self.geometric,))
        before, proposed = proxy.judge(default), trials[-1]
        right = torch.zeros(len(proxy.targets))
        for fold in proxy.folds:
            right[fold.test] = proxy.judge(self._propose(proxy, fold.train)).right[fold.test]
        verdict = compare(right, before.right, proxy.targets)
        gain = _balanced(right - before.right, proxy.targets)
        if not proposed.candidate.per_class:
            verdict = verdict._replace(
                better=False, reason="the crop moves the false positives of no class"
            )
        elif gain < -LOSS:
            lost = f"the mean recall of the classes would fall by {-100 * gain:.1f} points"
            verdict = verdict._replace(better=False, reason=lost)
        if not verdict.better:
            return SearchResult(default, before, right, verdict, "default")
        return SearchResult(proposed.candidate, proposed.judged, right, verdict, "default")

    def _propose(self, proxy: Proxy, rows: Int[Tensor, " K"]) -> PolicyCandidate:
        """Own crops for the classes whose false positives, among the images seen, these move."""
        absorbers: list[Absorber] = []
        for label in range(proxy.classes):
            absorber = self._absorber(proxy, label, rows)
            if absorber is not None:
                absorbers.append(absorber)
        absorbers.sort(key=lambda absorber: (-absorber.fewer, absorber.label))
        few = sorted(absorbers[: max(1, proxy.classes // SHARE)])
        policies = tuple((absorber.label, self._policy(absorber.crop)) for absorber in few)
        return PolicyCandidate((self.geometric,), policies)

    def _absorber(self, proxy: Proxy, label: int, rows: Int[Tensor, " K"]) -> "Absorber | None":
        errors = {
            crop: Errors.of(
                proxy.judge(PolicyCandidate(self._policy(crop))), proxy.targets, label, rows
            )
            for crop in self._strengths()
        }
        default = self.geometric.crop
        crop = min(errors, key=lambda c: (errors[c].total, abs(c - default)))
        fewer = errors[default].false_positives - errors[crop].false_positives  # (K,)
        if crop == default or doubt(fewer) >= DOUBT:
            return None
        return Absorber(label, crop, int(fewer.sum()))

    def _strengths(self) -> list[float]:
        return sorted({*self.crops, self.geometric.crop}, reverse=True)

    def _policy(self, crop: float) -> Policy:
        return (replace(self.geometric, crop=crop),)


class Absorber(NamedTuple):
    """A class that takes images of others."""

    label: int
    crop: float  # its best
    fewer: int  # false positives with that crop


class Errors(NamedTuple):
    """What a class gets wrong, 1 for each image of which that is true."""

    false_positives: Float[Tensor, " K"]  # images of others
    false_negatives: Float[Tensor, " K"]  # false negatives

    @property
    def total(self) -> int:
        return int(self.false_positives.sum() + self.false_negatives.sum())

    @classmethod
    def of(
        cls, judged: PolicyScore, targets: Int[Tensor, " M"], label: int, rows: Int[Tensor, " K"]
    ) -> "Errors":
        """Those of a class among the images seen."""
        positive, true = judged.predicted[rows] == label, targets[rows] == label
        return cls((positive & ~true).float(), (~positive & true).float())


def doubt(gains: Float[Tensor, " K"], seed: int = 0) -> float:
    """The probability that there is no gain in sum, by a one-sided bootstrap."""
    generator = Generator().manual_seed(seed)
    resamples = torch.randint(len(gains), (RESAMPLES, len(gains)), generator=generator)
    return float((gains[resamples].sum(dim=1) <= 0).float().mean())


def _balanced(gains: Float[Tensor, " M"], targets: Int[Tensor, " M"]) -> float:
    """The mean over the classes."""
    sums = torch.zeros(int(targets.max()) + 1).index_add_(0, targets, gains)
    return float((sums / torch.bincount(targets)).mean())
