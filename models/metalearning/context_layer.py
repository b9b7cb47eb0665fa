"""A layer of a transformer in which shots look at each other, and queries at shots."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

NUMBERS = 1 << 20  # of attention that are held at a time: 4 MB


class ContextLayer(nn.Module):
    """Attention to shots and a feed-forward network, both of what a norm makes of tokens.

    What labels are is told by a bias of attention from shot to shot, where they are of the same
    label, one for each attention head. Queries have no label, and see each shot alike.
    """

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.attended = nn.Linear(width, width)
        self.same = nn.Parameter(torch.zeros(attention_heads))
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def look_at(self, tokens: Float[Tensor, "R M P"]) -> tuple[Tensor, Tensor]:
        """Keys and values of shots, (R, heads, M, P / heads)."""
        keys, values = self.key_value(self.first_norm(tokens)).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        tokens: Float[Tensor, "R B P"],
        keys: Tensor,
        values: Tensor,
        *,
        visible: Bool[Tensor, "R M"] | None = None,
        targets: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, "R B P"]:
        """What tokens become.

        Args:
            keys: of the shots that they look at, as `look_at` has them; and so are values.
            visible: shots that are seen each time; None: all.
            targets: the labels of shots, where tokens are these; None: tokens are queries.
        """
        places = torch.split(torch.arange(tokens.shape[1]), self._rows(keys))
        return torch.cat(
            [
                self._transformed(tokens[:, part], keys, values, self._bias(visible, targets, part))
                for part in places
            ],
            dim=1,
        )

    def _transformed(
        self, tokens: Float[Tensor, "R B P"], keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Float[Tensor, "R B P"]:
        query = self._split(self.query(self.first_norm(tokens)))
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        tokens = tokens + self.attended(attended.transpose(1, 2).flatten(2))
        transformed: Tensor = tokens + self.feed_forward(self.second_norm(tokens))
        return transformed

    def _bias(
        self,
        visible: Bool[Tensor, "R M"] | None,
        targets: Int[Tensor, " M"] | None,
        places: Int[Tensor, " B"],
    ) -> Tensor | None:
        """(R, heads, B, M) or what is broadcast to it, of attention by some tokens to all shots."""
        hidden = None
        if visible is not None:
            hidden = torch.zeros_like(visible, dtype=self.same.dtype).masked_fill(
                ~visible, -torch.inf
            )
            hidden = hidden[:, None, None]
        if targets is None:
            return hidden
        bias = self.same[:, None, None] * (targets[places, None] == targets)
        return bias[None] if hidden is None else bias + hidden

    def _rows(self, keys: Tensor) -> int:
        """Tokens at a time."""
        return max(1, NUMBERS // (keys.shape[0] * keys.shape[1] * keys.shape[2]))

    def _split(self, tokens: Float[Tensor, "R B P"]) -> Tensor:
        """(R, heads, B, P / heads)."""
        return tokens.unflatten(2, (self.attention_heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]
