"""Images that look the same and yet have different labels."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS_PER_BLOCK = 1024


class Twins(NamedTuple):
    """Pairs of images of different classes, most alike first."""

    first: Int[Tensor, " K"]
    second: Int[Tensor, " K"]
    cosine: Float[Tensor, " K"]


def contradicting_twins(
    embeddings: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    *,
    above: float,
    most: int = 1000,
) -> Twins:
    """Pairs of different classes whose cosine is at least `above`, at most `most` of them.

    All pairs are compared, by blocks of rows: M^2 D operations, and memory for a block's cosines.
    """
    twins = Twins(
        *(torch.empty(0, dtype=kind) for kind in (torch.int64, torch.int64, torch.float32))
    )
    for start in range(0, len(embeddings), ROWS_PER_BLOCK):
        block = embeddings[start : start + ROWS_PER_BLOCK].float()
        cosines = torch.cat(
            [block @ part.float().T for part in torch.split(embeddings[start:], ROWS_PER_BLOCK)],
            dim=1,
        )  # (block, M - start)
        differ = targets[start : start + len(block), None] != targets[None, start:]
        later = torch.ones_like(differ).triu(diagonal=1)  # each pair once
        rows, columns = (differ & later & (cosines >= above)).nonzero(as_tuple=True)
        twins = _most_alike(
            Twins(
                torch.cat([twins.first, start + rows]),
                torch.cat([twins.second, start + columns]),
                torch.cat([twins.cosine, cosines[rows, columns]]),
            ),
            most,
        )
    return twins


def _most_alike(twins: Twins, most: int) -> Twins:
    order = twins.cosine.argsort(descending=True, stable=True)[:most]
    return Twins(*(part[order] for part in twins))
