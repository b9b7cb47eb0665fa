"""Self-supervised pretraining: an encoder learns from images without labels."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from models.embeddings.representation import feature_std
from models.encoders import Encoder, is_transformer, trainable_copy
from models.pretraining.views import Views
from models.training.loop import Batch, Images, Objective, ParameterGroup, Training, split_decay
from models.training.recipe import Recipe

STEPS = 2000  # that a pretraining takes when its recipe says nothing, within these bounds of epochs


FEWEST_EPOCHS, MOST_EPOCHS = 5, 200


RATE, TRANSFORMER_RATE = 1e-3, 5e-4


# Steps between two looks at whether a run still learns, and how many bad looks in a row end it.
LOOK, STRIKES = 10, 5


# Spread below which all images look alike; projections through batch norms are spread by 0.5 and
# more while they learn (`python -m bench.collapse`), and fall long before encoders do.
NARROW, NARROW_PROJECTION = 0.02, 0.15


SAME = 0.9999  # cosine above which two views are one


STILL = 0.5 / 255  # difference of pixels below which two views are one


ABOVE_CHANCE = 4.0  # times the loss of knowing nothing: what is worse is no learning


TRUSTED = 50  # steps in which a loss may be anything


class Unsuited(ValueError):
    """The method cannot work with this encoder or these images; the message says why."""


class Collapsed(ValueError):
    """The encoder no longer learns what tells images apart."""


class PretextLoss(NamedTuple):
    """What an objective made of a batch."""

    loss: Float[Tensor, ""]
    features: Sequence[Float[Tensor, "B P"]]  # of one view or two, to watch for collapse


class Pretext(Objective):
    """What all methods share: an encoder that learns, and an eye on whether it collapses.

    Args:
        chance: the loss of knowing nothing.
    """

    chance: float
    narrow = NARROW
    fixed = False  # whether batch norms of encoders keep the statistics that they have
    strikes: Tensor
    steps: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("strikes", torch.tensor(0))
        self.register_buffer("steps", torch.tensor(0))

    def pretext_loss(self, batch: Batch) -> PretextLoss:
        """What this method makes of a batch."""
        raise NotImplementedError

    def pictures(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "K 3 T T"] | None:
        """What the method makes of images, for a person to look at, if that can be seen."""
        return None

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What a step lowers.

        Raises:
            Collapsed: several looks in a row found nothing that is learned.
        """
        outcome = self.pretext_loss(batch)
        if self.training:
            self._watch(outcome, batch.views)
        return outcome.loss

    def groups(self) -> list[ParameterGroup]:
        """All that needs gradients, at one rate."""
        return split_decay("all", self, 1.0)

    def train(self, mode: bool = True) -> "Pretext":
        super().train(mode)
        if self.fixed:
            for module in self.modules():
                if isinstance(module, Encoder):
                    module.eval()
        return self

    @torch.no_grad()
    def _watch(self, outcome: PretextLoss, views: Sequence[Tensor]) -> None:
        self.steps += 1
        if int(self.steps) % LOOK:
            return
        reason = self._trouble(outcome) or _sameness(views)
        self.strikes = self.strikes + 1 if reason else torch.zeros_like(self.strikes)
        if int(self.strikes) >= STRIKES:
            raise Collapsed(f"after {int(self.steps)} steps {reason}")

    def _trouble(self, outcome: PretextLoss) -> str:
        first, *remaining = (features.detach() for features in outcome.features)
        width = feature_std(first)
        if width < self.narrow:
            return (
                f"all images look alike: their spread is {width:.3f} of 1; use a smaller rate, or "
                "a larger batch"
            )
        if remaining:
            cosine = float(
                nn.functional.cosine_similarity(first.float(), remaining[0].float()).mean()
            )
            if cosine > SAME:
                return (
                    f"two views of an image are one: their cosine is {cosine:.5f}; use stronger "
                    "changes in views"
                )
        loss = float(outcome.loss.detach())
        if int(self.steps) > TRUSTED and loss > ABOVE_CHANCE * self.chance:
            return (
                f"the loss is {loss:.3g}, and {self.chance:.3g} would be that of knowing nothing; "
                "use a higher temperature, or a smaller rate"
            )
        return ""


class Joint(Pretext):
    """What methods share that compare two views of each image.

    Args:
        first: how the first view is made.
        second: how the second is made; as the first when not given.
    """

    narrow = NARROW_PROJECTION

    def __init__(self, encoder: Encoder, first: Views, second: Views | None = None) -> None:
        super().__init__(encoder)
        self._views = first, second or first

    def make_views(
        self, images: Tensor, shares: Float[Tensor, "B C"], generator: Generator
    ) -> tuple[list[Tensor], Float[Tensor, "B C"]]:
        return [views(images, generator) for views in self._views], shares


def _sameness(views: Sequence[Tensor]) -> str:
    """Why there is nothing to learn from two views, if there is not."""
    if len(views) < 2 or views[0].shape != views[1].shape:
        return ""
    if float((views[0] - views[1]).abs().mean()) > STILL:
        return ""
    return "two views of an image are one, pixel for pixel; use stronger changes in views"


Family = Literal["discriminative", "generative", "contrastive", "cluster-based"]


@runtime_checkable
class PretrainingMethod(Protocol):
    """The options of one method."""

    family: ClassVar[Family]
    fewest: ClassVar[int]  # images below which it learns little
    unsuited: ClassVar[str]  # when not to use it

    def build(self, encoder: Encoder, images: int) -> Pretext:
        """The objective, with an encoder that will learn, for so many images.

        Raises:
            Unsuited: it cannot work with this encoder or so few images.
        """
        ...


def start(
    method: PretrainingMethod, encoder: Encoder, images: Images, recipe: Recipe, *, fresh: bool
) -> Training:
    """Begin to pretrain a copy of an encoder, which is the `encoder` of the training's objective.

    Args:
        images: decoded, as the encoder wants them.
        fresh: the weights are random; otherwise batch norms keep their statistics.

    Raises:
        Unsuited: the method cannot work with this encoder or these images.
    """
    if len(images) < recipe.batch_size:
        raise Unsuited(
            f"there are {len(images)} images, fewer than a batch of {recipe.batch_size}: add "
            "images or use a smaller batch_size"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        objective = method.build(trainable_copy(encoder, fresh=fresh), len(images))
        objective.fixed = not fresh
        objective.to(encoder.mean.device).train()
        return Training(objective, images, None, resolve_recipe(recipe, encoder, len(images)))


def resolve_recipe(recipe: Recipe, encoder: Encoder, images: int) -> Recipe:
    """The recipe with the epochs and the rate that it leaves open."""
    epochs = math.ceil(STEPS / max(1, images // recipe.batch_size))
    rate = TRANSFORMER_RATE if is_transformer(encoder) else RATE
    return replace(
        recipe,
        epochs=recipe.epochs or min(max(epochs, FEWEST_EPOCHS), MOST_EPOCHS),
        rate=recipe.rate or rate,
    )


def views_of(
    method: PretrainingMethod,
    encoder: Encoder,
    images: Float[Tensor, "B 3 S S"],
    *,
    count: int,
    seed: int,
) -> list[list[Tensor]]:
    """What an objective of the method sees of some images, drawn `count` times.

    A view is one tensor, (B, 3, T, T), or (B, L, 3, T, T) where it is in parts.
    """
    objective = method.build(encoder, max(len(images), method.fewest))
    generator = Generator().manual_seed(seed)
    none = images.new_empty(len(images), 0)
    return [objective.make_views(images, none, generator)[0] for _ in range(count)]
