"""Fine-tuning: adapting a pretrained encoder to the labels of a project."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from models.augmentation import Augmentation, apply
from models.encoders import Encoder, is_transformer, trainable_copy
from models.evaluation.folds import Fold
from models.training.loop import (
    Batch,
    Epoch,
    Images,
    Objective,
    ParameterGroup,
    Training,
    as_values,
)
from models.training.recipe import Recipe

EMBED_BATCH = 32


STEPS = 80  # that a training takes when its recipe says nothing, within these bounds of epochs


FEWEST_EPOCHS, MOST_EPOCHS = 3, 30


RATE, TRANSFORMER_RATE = 1e-3, 1e-4


class Classifier(Objective):
    """An encoder under a cosine classifier: an objective that learns what serving will compare.

    A class weight is compared as a centroid is, so nearest centroids agree with what was trained
    (Gidaris & Komodakis, 2018, https://arxiv.org/abs/1804.09458). The weights start at the
    centroids of the frozen embeddings: a random start would distort the features before it fits
    them (Kumar et al., 2022, https://arxiv.org/abs/2202.10054).

    Args:
        body: images, or features of them, to embeddings (B, D) of unit length.
        policy: augmentations, drawn anew whenever an image is seen.
    """

    def __init__(
        self,
        body: nn.Module,
        groups: Sequence[ParameterGroup],
        centroids: Float[Tensor, "C D"],
        *,
        temperature: float = 0.05,
        label_smoothing: float = 0.1,
        policy: Sequence[Augmentation] = (),
    ) -> None:
        super().__init__()
        self.body = body
        self.weights = nn.Parameter(centroids.clone())
        self._groups = groups
        self._temperature = temperature
        self._label_smoothing = label_smoothing
        self._policy = policy
        # Running statistics stay those of pretraining: a handful of images has none worth having.
        self.eval()

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        """One view, where there is a policy."""
        if self._policy:
            images, shares = apply(self._policy, images, shares, generator)
        return [images], shares

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross entropy with smoothed targets."""
        logits = self(batch.views[0]).float() / self._temperature
        return F.cross_entropy(logits, batch.targets, label_smoothing=self._label_smoothing)

    def forward(self, images: Tensor) -> Float[Tensor, "B C"]:
        """Cosine of each image to each class weight."""
        cosines: Tensor = self.body(images) @ F.normalize(self.weights, dim=1).T
        return cosines

    @torch.no_grad()
    def accuracy(self, images: Images, targets: Int[Tensor, " M"]) -> float:
        """The share of images, 0..1, whose class has the nearest weight."""
        device = self.weights.device
        right = 0
        for positions in torch.split(torch.arange(len(targets)), EMBED_BATCH):
            cosines = self(as_values(images[positions]).to(device))
            right += int((cosines.argmax(dim=1).cpu() == targets[positions]).sum())
        return right / len(targets)

    def groups(self) -> list[ParameterGroup]:
        """What learns in the body, and the class weights.

        Those are of unit length, some 0.03 in each component, and start where they should: at ten
        times the rate the first steps would throw them away, and the features would follow.
        """
        return [*self._groups, ParameterGroup("head", [self.weights], 1.0, decays=False)]


@runtime_checkable
class FinetuningMethod(Protocol):
    """The options of one way to fine-tune."""

    frozen: ClassVar[bool]  # all stages but the last, whose input is then computed only once

    def variants(self, encoder: Encoder) -> "Sequence[FinetuningMethod]":
        """The methods among which cross-validation shall choose; often this one alone."""
        ...

    def prepare(self, encoder: Encoder) -> Encoder:
        """A copy that can learn; the encoder given stays as it is."""
        ...


@runtime_checkable
class GradientMethod(FinetuningMethod, Protocol):
    """The options of one that trains by a recipe: what learns, and how fast."""

    def groups(self, encoder: Encoder, shots: int) -> list[ParameterGroup]:
        """The parameters that learn, from shallow to deep; all others are frozen.

        Args:
            shots: images of the class that has the fewest.
        """
        ...


@runtime_checkable
class Epochs(Protocol):
    """A training that can stop after any epoch and go on from there."""

    @property
    def epoch(self) -> int:
        """How many are finished."""
        ...

    def __iter__(self) -> Iterator[Epoch]: ...

    def __next__(self) -> Epoch: ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Tuning(Protocol):
    """An encoder that learns labels."""

    @property
    def training(self) -> Epochs: ...

    def averaged(self) -> Encoder:
        """A copy of the encoder as it is now."""
        ...


# Begins to adapt an encoder by steps that it has learned: by images, the class of each, and how
# many may be in memory at a time.
Adapter = Callable[[Images, Tensor, int], Tuning]


class Finetuning(NamedTuple):
    """An encoder in training."""

    encoder: Encoder  # what learns
    training: Training

    def averaged(self) -> Encoder:
        """A copy of the encoder, with averaged weights where the recipe has an average."""
        learned: dict[int, Tensor] = {}
        current, averaged = self.training.objective, self.training.averaged
        for parameter, average in zip(
            current.body.parameters(), averaged.body.parameters(), strict=True
        ):
            learned[id(parameter)] = average
        copied = copy.deepcopy(self.encoder)
        with torch.no_grad():
            for parameter, target in zip(
                self.encoder.parameters(), copied.parameters(), strict=True
            ):
                target.copy_(learned.get(id(parameter), parameter))
        return copied


def start(
    method: GradientMethod,
    encoder: Encoder,
    images: Images,
    targets: Int[Tensor, " M"],
    recipe: Recipe,
    *,
    policy: Sequence[Augmentation] = (),
    embeddings: Float[Tensor, "M D"] | None = None,
    fold: Fold | None = None,
) -> Finetuning:
    """Begin to fine-tune a copy of an encoder to labeled images.

    Args:
        images: decoded, as the encoder wants them.
        targets: the class of each image, from 0; each class occurs.
        policy: augmentations; a frozen encoder sees each image once and so none of them.
        embeddings: those of the encoder, where they are known.
        fold: which images to learn from, and with which to judge after each epoch; all of them
            and none when not given.
    """
    if embeddings is None:
        embeddings = embed_all(encoder, images)
    everything = torch.arange(len(targets))
    train, test = fold or Fold(everything, everything[:0])
    centroids = class_centroids(embeddings[train], targets[train]).to(encoder.mean.device)
    learner = method.prepare(encoder)
    groups = method.groups(learner, int(torch.bincount(targets[train]).min()))
    body = nn.Sequential(learner.stages[-1], Unit()) if method.frozen else learner
    recipe = resolve_recipe(recipe, encoder, len(targets))
    objective = Classifier(
        body,
        groups,
        centroids,
        label_smoothing=recipe.label_smoothing,
        policy=() if method.frozen else policy,
    )
    inputs: Images = embeddings if method.frozen else images
    training = Training(
        objective,
        Part(inputs, train),
        targets[train],
        recipe,
        judge=(lambda: objective.accuracy(Part(inputs, test), targets[test]))
        if len(test)
        else None,
    )
    return Finetuning(learner, training)


def resolve_recipe(recipe: Recipe, encoder: Encoder, images: int) -> Recipe:
    """The recipe with the epochs and the rate that it leaves open.

    Few images are seen often and many seldom; transformers want a tenth of the rate.

    Args:
        images: how many there are in all; folds of them take as many epochs.
    """
    epochs = math.ceil(STEPS / math.ceil(images / recipe.batch_size))
    rate = TRANSFORMER_RATE if is_transformer(encoder) else RATE
    return replace(
        recipe,
        epochs=recipe.epochs or min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS),
        rate=recipe.rate or rate,
    )


class Part:
    """Some of the images."""

    def __init__(self, images: Images, positions: Int[Tensor, " K"]) -> None:
        self._images = images
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, positions: Tensor, /) -> Tensor:
        return self._images[self._positions[positions]]


class Unit(nn.Module):
    """Scales vectors to unit length."""

    def forward(self, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return F.normalize(vectors, dim=1)


def learning_copy(encoder: Encoder) -> Encoder:
    """A copy of which all parameters can learn."""
    return trainable_copy(encoder, fresh=False).eval()


def class_centroids(
    embeddings: Float[Tensor, "M D"], targets: Int[Tensor, " M"]
) -> Float[Tensor, "C D"]:
    """The mean direction of each class."""
    classes = int(targets.max()) + 1
    sums = torch.zeros(classes, embeddings.shape[1]).index_add_(0, targets, embeddings.float())
    return F.normalize(sums, dim=1)


@torch.no_grad()
def interpolate(before: Encoder, after: Encoder, share: float) -> Encoder:
    """Weights between two trainings of one encoder (WiSE-FT, Wortsman et al., 2022, equation 1).

    https://arxiv.org/abs/2109.01903

    Args:
        share: of `after`; 0 gives `before`, 1 gives `after`.
    """
    mixed = copy.deepcopy(after)
    old = before.state_dict()
    for name, tensor in mixed.state_dict().items():
        if tensor.is_floating_point() and name in old:
            tensor.lerp_(old[name], 1 - share)
    return mixed


def embed_all(encoder: Encoder, images: Images) -> Float[Tensor, "M D"]:
    """Embeddings of decoded images, by the batch."""
    batches = torch.split(torch.arange(len(images)), EMBED_BATCH)
    return torch.cat([encoder.embed(images[positions]) for positions in batches]).clone()
