"""A transformer that looks at what is labeled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.heads.network import (
    SCALE,
    Condensed,
    HeadNetwork,
    class_shares,
    left_out_by_folds,
)
from models.metalearning.context_layer import ContextLayer
from models.metalearning.learners import learners
from models.registry import require_within

TOKENS = 2048  # of shots, in folds that are left out at once


@learners.register
@dataclass(frozen=True, kw_only=True)
class InContext:
    """Let queries look at the shots, by a transformer that learned what to look for.

    As CAML (Fifty et al., 2024, https://arxiv.org/abs/2310.10971), with three differences. Its
    labels are not vectors but a bias of attention between shots, of the same and of another label:
    so there may be any number of labels, and their order does not matter. Shots do not see queries,
    so that what they know is computed once. It corrects what prototypes say, by nothing at the
    start, where theirs answers alone.
    """

    fewest_labels: ClassVar[int] = 50
    unsuited: ClassVar[str] = "few earlier labels; hundreds of shots of a label, which need no help"

    width: int = 64  # of tokens; each attention head has its share
    layers: int = 2
    attention_heads: int = 4
    most_shots: int = 512  # that are looked at, as many of each label; prototypes are of all

    def __post_init__(self) -> None:
        require_within(self, "width", 1, 1024)
        require_within(self, "layers", 1, 12)
        require_within(self, "attention_heads", 1, 16)
        require_within(self, "most_shots", 1, 4096)
        if self.width % self.attention_heads:
            raise ValueError(
                f"width must be a multiple of attention_heads, {self.attention_heads}, "
                f"got {self.width}"
            )

    def network(self, dim: int) -> HeadNetwork:
        return _Network(dim, self)


class _Network(HeadNetwork):
    def __init__(self, dim: int, options: InContext) -> None:
        super().__init__()
        self.most_shots = options.most_shots
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())
        self.embed = nn.Linear(dim, options.width, bias=False)
        nn.init.normal_(self.embed.weight)  # of vectors of unit length
        self.layers = nn.ModuleList(
            ContextLayer(options.width, options.attention_heads) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(options.width)
        self.out = nn.Linear(options.width, options.width, bias=False)
        nn.init.zeros_(self.out.weight)

    def condense(
        self, support: Float[Tensor, "M D"], targets: Int[Tensor, " M"], classes: int
    ) -> Condensed:
        parts = self._condense(support, targets, classes)
        directions, *rest = (part[0] for part in parts)
        return Condensed(directions, tuple(rest))

    def log_odds(
        self, condensed: Condensed, projected: Float[Tensor, "Q P"]
    ) -> Float[Tensor, "Q C"]:
        return self._log_odds([part[None] for part in condensed.rest], projected[None])[0]

    def left_out(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        rows: Int[Tensor, " K"],
    ) -> Float[Tensor, "K C"]:
        """By sixteenths, as by default, but several at once."""
        seen = self._seen(targets)

        def answer(visible: Bool[Tensor, "R M"], asked: Int[Tensor, "R Q"]) -> Tensor:
            directions, *rest = self._condense(support, targets, classes, visible)
            return self._log_odds(rest, support[asked] @ directions.mT, visible[:, seen])

        return left_out_by_folds(targets, classes, rows, max(1, TOKENS // len(seen)), answer)

    def _condense(
        self,
        support: Float[Tensor, "M D"],
        targets: Int[Tensor, " M"],
        classes: int,
        visible: Bool[Tensor, "R M"] | None = None,
    ) -> list[Tensor]:
        """Directions and all the rest, each time of the shots that are visible then, (R, ...)."""
        seen = self._seen(targets)
        visible_seen = None if visible is None else visible[:, seen]
        shares = class_shares(targets, classes, visible)
        prototypes, scale = shares @ support, self.log_scale.exp()
        tokens, memory = self.embed(support[seen]).expand(len(shares), -1, -1), []
        for layer in self.layers:
            assert isinstance(layer, ContextLayer)
            keys, values = layer.look_at(tokens)
            memory += [keys, values]
            tokens = layer(tokens, keys, values, visible=visible_seen, targets=targets[seen])
        labels = class_shares(targets[seen], classes, visible_seen) @ self.norm(tokens)
        embed = self.embed.weight.expand(len(shares), -1, -1)
        return [
            torch.cat([2 * scale * prototypes, embed], dim=1),
            -scale * prototypes.square().sum(dim=2),
            self.out(labels),
            *memory,
        ]

    def _seen(self, targets: Int[Tensor, " M"]) -> Int[Tensor, " B"]:
        """The shots that are looked at: the first of each label, then the second ..., in order."""
        if len(targets) <= self.most_shots:
            return torch.arange(len(targets))
        counts = torch.bincount(targets)
        by_label = targets.argsort(stable=True)
        ranks = torch.arange(len(targets)) - (counts.cumsum(0) - counts)[targets[by_label]]
        return by_label[ranks.argsort(stable=True)[: self.most_shots]].sort().values

    def _log_odds(
        self,
        rest: Sequence[Tensor],
        projected: Float[Tensor, "R Q P"],
        visible: Bool[Tensor, "R M"] | None = None,
    ) -> Float[Tensor, "R Q C"]:
        """-s |q - p|^2, but for s |q|^2, and the product of what q and the label became."""
        offsets, labels, *memory = rest
        closeness, tokens = projected.tensor_split([offsets.shape[1]], dim=2)
        for layer, keys, values in zip(self.layers, memory[::2], memory[1::2], strict=True):
            tokens = layer(tokens, keys, values, visible=visible)
        log_odds: Tensor = closeness + offsets[:, None] + self.norm(tokens) @ labels.mT
        return log_odds
