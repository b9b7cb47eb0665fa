"""A cheap proxy of fine-tuning that judges augmentations.

It trains no encoder. The frozen encoder embeds clean and augmented images, a linear head is fitted
to both, and clean images that it has not seen tell how good the augmentation was.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.augmentation import apply
from models.augmentation_search.candidates import Policy, PolicyCandidate, PolicyScore, describe
from models.augmentation_search.linear_head import fit
from models.encoders import Encoder
from models.evaluation.folds import stratified_folds
from models.training.loop import Images

EMBED_BATCH = 32


DIMENSIONS = 256  # of the embeddings that a head is fitted to, at most


ROWS_KEPT = 200_000  # embeddings of augmented images that are remembered, of a kilobyte each


@runtime_checkable
class Chained(Protocol):
    """An augmentation that can say beforehand what it will do to each image."""

    def draw(self, count: int, generator: Generator) -> Sequence[Hashable]: ...

    def perform(
        self, images: Float[Tensor, "B 3 S S"], chains: Sequence[Any]
    ) -> Float[Tensor, "B 3 S S"]: ...


class Proxy:
    """Judges augmentations on labeled images, the same images, folds and luck for all of them.

    Nothing is embedded twice, and no candidate is judged twice. `state()` holds all judgements, so
    a search that is run again from it takes the same way, at once, up to where it was interrupted.

    Args:
        encoder: frozen; it must not have seen the labels.
        limit: at most this many images, of each class as many as of any other where there are.
        views: augmented copies of each image.
        folds: fewer where a class has fewer images.

    Raises:
        ValueError: a class has fewer than two images within the limit.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: Images,
        targets: Int[Tensor, " N"],
        *,
        limit: int = 500,
        views: int = 2,
        folds: int = 3,
        seed: int = 0,
    ) -> None:
        self._encoder = encoder
        self._images = images
        self._views = views
        self._seed = seed
        self._positions = balanced(targets, limit, seed)
        self.targets = targets[self._positions]
        shots = torch.bincount(self.targets)
        if int(shots.min()) < 2:
            raise ValueError(
                f"{limit} images are too few for two of each of {len(shots)} classes: "
                f"use at least {2 * len(shots)}, and two labels of each class"
            )
        self.folds = stratified_folds(self.targets, min(folds, int(shots.min())), seed)
        self._wholes: dict[tuple[str, int], Tensor] = {}  # by policy and view
        self._rows: dict[tuple[int, Hashable], Tensor] = {}  # by image and operations
        self._judged: dict[str, PolicyScore] = {}

    @property
    def classes(self) -> int:
        return int(self.targets.max()) + 1

    def judge(self, candidate: PolicyCandidate) -> PolicyScore:
        """What heads, fitted to clean and augmented images, make of the clean held-out ones."""
        name = describe(candidate)
        if name not in self._judged:
            self._judged[name] = self._judge(candidate)
        return self._judged[name]

    def state(self) -> dict[str, Any]:
        """All judgements."""
        return {
            name: {"predicted": judged.predicted, "likelihood": judged.likelihood}
            for name, judged in self._judged.items()
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Remember the judgements of a proxy of the same encoder, images and options."""
        for name, stored in state.items():
            predicted = stored["predicted"]
            right = (predicted == self.targets).float()
            self._judged[name] = PolicyScore(predicted, right, stored["likelihood"])

    def _judge(self, candidate: PolicyCandidate) -> PolicyScore:
        copies = [self.clean, *self._augmented(candidate)]  # each (M, D)
        predicted = torch.zeros_like(self.targets)
        likelihood = torch.zeros(len(self.targets))
        for fold in self.folds:
            rows = torch.cat([copy[fold.train] for copy in copies])
            targets = self.targets[fold.train].repeat(len(copies))
            logits = fit(rows, targets, self.classes, share=1 / len(copies))
            chances = logits(self.clean[fold.test]).log_softmax(dim=1)
            predicted[fold.test] = chances.argmax(dim=1)
            of_truth = chances.gather(1, self.targets[fold.test].unsqueeze(1)).squeeze(1)
            likelihood[fold.test] = of_truth
        return PolicyScore(predicted, (predicted == self.targets).float(), likelihood)

    @cached_property
    def clean(self) -> Float[Tensor, "M D"]:
        """Embeddings of the images as they are, on their principal axes."""
        return self._reduce(self._raw)

    @cached_property
    def _raw(self) -> Float[Tensor, "M D"]:
        parts = _batches(len(self.targets))
        embeddings = torch.cat([self._embed(self._values(part)) for part in parts])
        if not bool(embeddings.isfinite().all()):
            raise ValueError("the encoder's embeddings are not finite: promote another version")
        return embeddings

    @cached_property
    def _axes(self) -> tuple[Float[Tensor, " D"], Float[Tensor, "D K"]]:
        """The mean of the clean embeddings, and the axes along which they vary most."""
        middle = self._raw.mean(dim=0)
        _, _, axes = torch.linalg.svd(self._raw - middle, full_matrices=False)
        return middle, axes[:DIMENSIONS].T.contiguous()

    def _reduce(self, embeddings: Float[Tensor, "M D"]) -> Float[Tensor, "M K"]:
        middle, axes = self._axes
        return (embeddings - middle) @ axes

    def _augmented(self, candidate: PolicyCandidate) -> list[Tensor]:
        """The augmented copies of all images, (M, D) each, every class by its policy."""
        copies = [copy.clone() for copy in self._copies(candidate.policy)]
        for label, policy in candidate.per_class:
            members = self.targets == label
            for copy, augmented in zip(copies, self._copies(policy), strict=True):
                copy[members] = augmented[members]
        return copies

    def _copies(self, policy: Policy) -> list[Tensor]:
        if not policy:
            return [self.clean] * self._views
        of = self._chained if len(policy) == 1 and isinstance(policy[0], Chained) else self._whole
        return [of(policy, view) for view in range(self._views)]

    def _whole(self, policy: Policy, view: int) -> Float[Tensor, "M D"]:
        """A copy of all images, remembered by the policy that made it."""
        key = (describe(PolicyCandidate(policy)), view)
        if key not in self._wholes:
            generator = self._generator(view)
            shares = F.one_hot(self.targets).float()
            changed = [
                self._embed(apply(policy, self._values(part), shares[part], generator)[0])
                for part in _batches(len(self.targets))
            ]
            self._wholes[key] = self._reduce(torch.cat(changed))
        return self._wholes[key]

    def _chained(self, policy: Policy, view: int) -> Float[Tensor, "M D"]:
        """A copy of all images, each remembered by the operations that made it."""
        (augmentation,) = policy
        assert isinstance(augmentation, Chained)
        chains = augmentation.draw(len(self.targets), self._generator(view))
        rows = {n: self._remembered(n, chain) for n, chain in enumerate(chains)}
        missing = torch.tensor([n for n, row in rows.items() if row is None], dtype=torch.long)
        for part in (missing[batch] for batch in _batches(len(missing))):
            numbers = part.tolist()
            changed = augmentation.perform(self._values(part), [chains[n] for n in numbers])
            rows |= dict(zip(numbers, self._reduce(self._embed(changed)), strict=True))
            if len(self._rows) < ROWS_KEPT:
                self._rows |= {(n, chains[n]): rows[n] for n in numbers}
        return torch.stack([row for row in rows.values() if row is not None])

    def _remembered(self, image: int, chain: Hashable) -> Tensor | None:
        return self.clean[image] if chain == () else self._rows.get((image, chain))

    def _values(self, part: Int[Tensor, " B"]) -> Float[Tensor, "B 3 S S"]:
        return self._images[self._positions[part]].float() / 255

    def _embed(self, values: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        return self._encoder.embed((values * 255).round().to(torch.uint8)).clone()

    def _generator(self, view: int) -> Generator:
        """The luck of a view: the same for all candidates, so that they differ by nothing else."""
        return Generator().manual_seed(1000 * self._seed + view)


def balanced(targets: Int[Tensor, " N"], limit: int, seed: int = 0) -> Int[Tensor, " M"]:
    """Positions of at most `limit` images, drawn from the classes in turn."""
    generator = Generator().manual_seed(seed)
    turn = torch.zeros_like(targets)
    for label in range(int(targets.max()) + 1):
        members = (targets == label).nonzero().squeeze(1)
        turn[members] = torch.randperm(len(members), generator=generator)
    return turn.argsort(stable=True)[:limit].sort().values


def _batches(count: int) -> tuple[Int[Tensor, " B"], ...]:
    return torch.split(torch.arange(count), EMBED_BATCH)
