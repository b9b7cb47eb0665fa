"""Fine-tune in several ways, judge each by cross-validation, and train the best on all images."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from models.augmentation import Augmentation
from models.encoders import Encoder
from models.evaluation.folds import Fold, classify, predict, stratified_folds
from models.finetuning import (
    Adapter,
    FinetuningMethod,
    GradientMethod,
    Part,
    Tuning,
    embed_all,
    interpolate,
    resolve_recipe,
    start,
)
from models.finetuning.lora import merge
from models.heads import Head
from models.registry import plugin_name
from models.training.loop import Epoch, Images
from models.training.recipe import Recipe

DRAWS = 200  # of images, to choose on


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the fine-tuned weights (Wortsman et al., 2022)


class SelectionProgress(NamedTuple):
    """An epoch, and where it stands in the whole."""

    method: str  # as the plug-in is named
    run: int  # from 1
    runs: int
    fold: int | None  # from 1; None: on all images
    epoch: Epoch


class MethodCandidate(NamedTuple):
    """A method, and how much of what it learned is kept."""

    method: FinetuningMethod
    share: float  # of the fine-tuned weights; 0: the encoder as it was
    accuracy: float  # on images that it did not see, 0..1


class Selected(NamedTuple):
    """What came out."""

    encoder: Encoder
    method: FinetuningMethod
    share: float
    # The class of each image by models that never saw it, in each repetition. Method and share were
    # chosen without it as well, so that the accuracy is not flattered by the choice.
    predicted: Int[Tensor, "R M"]
    candidates: list[MethodCandidate]  # all, best first


class _Run(NamedTuple):
    method: int
    repeat: int
    fold: int | None


class Selection(Iterator[SelectionProgress]):
    """Fine-tunes each method on each fold, then the best on all images; an epoch at a time.

    What is judged is what will be served: the head on the embeddings of the tuned encoder, with
    weights between the old and the new (WiSE-FT, https://arxiv.org/abs/2109.01903).

    Args:
        encoder: where every training starts; it must not have seen the labels.
        methods: what to compare; variants of each count on their own.
        head: classifies the embeddings.
        folds: parts of the labels; each is judged by a training on the others.
        repeats: how often, with other folds.
        adapter: of the encoder, for a method that takes steps which that has learned.

    Raises:
        ValueError: a class has fewer images than there are folds, a method needs steps that the
            encoder has not learned, or has learned for another number of labels.
    """

    def __init__(
        self,
        encoder: Encoder,
        images: Images,
        targets: Int[Tensor, " M"],
        methods: Sequence[FinetuningMethod],
        recipe: Recipe,
        head: Head,
        *,
        policy: Sequence[Augmentation] = (),
        folds: int = 3,
        repeats: int = 1,
        adapter: Adapter | None = None,
    ) -> None:
        self._encoder = encoder
        self._images = images
        self._targets = targets
        self._methods = [variant for method in methods for variant in method.variants(encoder)]
        self._recipe = resolve_recipe(recipe, encoder, len(targets))
        self._head = head
        self._policy = policy
        self._folds = [stratified_folds(targets, folds, seed) for seed in range(repeats)]
        self._adapter = adapter
        if not all(isinstance(method, GradientMethod) for method in self._methods):
            self._adapt(torch.arange(len(targets)))  # is refused here, or never
        self._embeddings = embed_all(encoder, images)
        self._runs = [
            _Run(method, repeat, fold)
            for method in range(len(self._methods))
            for repeat in range(repeats)
            for fold in range(folds)
        ]
        self._all = len(self._runs) + 1  # runs; the last one is on all images
        self._at = 0
        self._tuning: Tuning | None = None
        self._lengths: list[int] = []  # epochs of each run, which early stopping may have cut
        # The class of each image by each method and share, in each repetition; -1: not judged yet.
        shape = (len(self._methods), len(SHARES), repeats, len(targets))
        self._predicted = torch.full(shape, -1)
        self._encoder_after: Encoder | None = None

    def __next__(self) -> SelectionProgress:
        while self._at < self._all:
            run = self._run()
            if run is None:
                break  # nothing that was learned is worth keeping
            if self._tuning is None:
                self._tuning = self._begin(run)
            training = self._tuning.training
            whole = run.fold is None
            if not (whole and training.epoch >= self._length(run.method)):
                for epoch in training:
                    fold = None if run.fold is None else run.fold + 1
                    name = plugin_name(self._methods[run.method])
                    return SelectionProgress(name, self._at + 1, self._all, fold, epoch)
            self._end(run, self._tuning)
            self._tuning = None
            self._at += 1
        raise StopIteration

    @property
    def embeddings(self) -> Float[Tensor, "M D"]:
        """Of the images, by the encoder from which every training starts."""
        return self._embeddings

    @property
    def folds(self) -> list[list[Fold]]:
        """Of each repetition."""
        return self._folds

    def predict(
        self, embeddings: Float[Tensor, "M D"], head: Head | None = None
    ) -> Int[Tensor, "R M"]:
        """The class of each image in each repetition by a head, fitted to the other folds.

        Args:
            head: None: the one with which methods are selected.
        """
        return predict(head or self._head, embeddings, self._targets, self._folds)

    def result(self) -> Selected:
        """What came out, once all epochs are done."""
        best, share = self._best(self._right().mean(dim=(2, 3)))
        method = self._methods[best]
        after = self._encoder_after
        if after is None:
            after = method.prepare(self._encoder)
            merge(after)
        accuracies = self._right().mean(dim=(2, 3))
        candidates = [
            MethodCandidate(self._methods[m], SHARES[s], float(accuracies[m, s]))
            for m in range(len(self._methods))
            for s in range(len(SHARES))
        ]
        candidates.sort(key=lambda candidate: (-candidate.accuracy, candidate.share))
        return Selected(after.eval(), method, SHARES[share], self._honest(), candidates)

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, besides what the constructor was given."""
        return {
            "at": self._at,
            "predicted": self._predicted,
            "lengths": self._lengths,
            "training": self._tuning.training.state() if self._tuning else None,
            "recipe": {"rate": self._recipe.rate, "batch_size": self._recipe.batch_size},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._at, self._predicted = state["at"], state["predicted"]
        self._lengths = list(state["lengths"])
        run = self._run() if self._at < self._all else None
        if state["training"] is not None and run is not None:
            self._tuning = self._begin(run)
            self._tuning.training.load(state["training"])

    def _run(self) -> _Run | None:
        """The run that is due; None when all images would teach nothing worth keeping."""
        if self._at < len(self._runs):
            return self._runs[self._at]
        best, share = self._best(self._right().mean(dim=(2, 3)))
        return _Run(best, 0, None) if SHARES[share] else None

    def _begin(self, run: _Run) -> Tuning:
        method = self._methods[run.method]
        fold = None if run.fold is None else self._folds[run.repeat][run.fold]
        if not isinstance(method, GradientMethod):
            return self._adapt(torch.arange(len(self._targets)) if fold is None else fold.train)
        return start(
            method,
            self._encoder,
            self._images,
            self._targets,
            self._recipe,
            policy=self._policy,
            embeddings=self._embeddings,
            fold=fold,
        )

    def _adapt(self, positions: Int[Tensor, " K"]) -> Tuning:
        if self._adapter is None:
            raise ValueError("the encoder has learned no steps by which it could adapt")
        part = Part(self._images, positions)
        return self._adapter(part, self._targets[positions], self._recipe.batch_size)

    def _length(self, method: int) -> int:
        """Epochs on all images: as many as the folds took on average."""
        lengths = [
            n for run, n in zip(self._runs, self._lengths, strict=True) if run.method == method
        ]
        return round(sum(lengths) / len(lengths))

    def _end(self, run: _Run, tuning: Tuning) -> None:
        """Judge what was learned on a fold; keep what was learned on all images."""
        method = self._methods[run.method]
        before = method.prepare(self._encoder)
        after = tuning.averaged()
        merge(before)
        merge(after)
        if run.fold is None:
            _, share = self._best(self._right().mean(dim=(2, 3)))
            self._encoder_after = interpolate(before, after, SHARES[share])
            return
        self._lengths.append(tuning.training.epoch)
        fold = self._folds[run.repeat][run.fold]
        for s, weight in enumerate(SHARES):
            mixed = interpolate(before, after, weight)
            embeddings = self._embeddings if weight == 0 else self._embed(method, mixed)
            predicted = classify(self._head, embeddings, self._targets, fold)
            self._predicted[run.method, s, run.repeat, fold.test] = predicted

    def _embed(self, method: FinetuningMethod, encoder: Encoder) -> Float[Tensor, "M D"]:
        if not method.frozen:
            return embed_all(encoder, self._images)
        with torch.no_grad():
            last = encoder.stages[-1](self._embeddings.to(encoder.mean.device))
            return F.normalize(last.flatten(1), dim=1).cpu()

    def _right(self) -> Float[Tensor, "G H R M"]:
        return (self._predicted == self._targets).float()

    def _best(self, accuracy: Float[Tensor, "G H"]) -> tuple[int, int]:
        """The method and share with the best accuracy; among equals the smallest share."""
        share = int(accuracy.max(dim=0).values.argmax())
        return int(accuracy[:, share].argmax()), share

    def _honest(self) -> Int[Tensor, "R M"]:
        """Of each image the class by the method and share that did best on other images.

        Images are drawn with replacement, the best is chosen on those drawn and speaks for the
        others (Tsamardinos et al., 2018, https://doi.org/10.1007/s10994-018-5714-4). Choosing on
        all folds but one would favour what happens to fail on that one.
        """
        classes, count = int(self._targets.max()) + 1, len(self._targets)
        generator = Generator().manual_seed(self._recipe.seed)
        honest = []
        for repeat in range(len(self._folds)):
            # Shares first: among equals the first, and so the smallest, is the best.
            predicted = self._predicted[:, :, repeat].transpose(0, 1).flatten(0, 1)  # (H G, M)
            resamples = torch.randint(count, (DRAWS, count), generator=generator)
            times = torch.zeros(DRAWS, count).scatter_add_(1, resamples, torch.ones(DRAWS, count))
            best = ((predicted == self._targets).float() @ times.T).argmax(dim=0)  # of each draw
            votes = torch.zeros(count, classes)
            for candidate in best.unique().tolist():  # type: ignore[no-untyped-call]
                left_out = (times[best == candidate] == 0).sum(dim=0)
                votes += left_out.unsqueeze(1) * F.one_hot(predicted[candidate], classes)
            honest.append(votes.argmax(dim=1))
        return torch.stack(honest)
