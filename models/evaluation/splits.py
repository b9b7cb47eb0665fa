"""Splits of labeled images into parts, such as train and test, that later images hardly disturb."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def assign(
    hashes: Int[Tensor, " N"], classes: Int[Tensor, " N"], shares: Sequence[float]
) -> Int[Tensor, " N"]:
    """The part that each image belongs to: an index into `shares`.

    The images of a class are put in the order of their hashes, and the order is cut in proportion
    to the shares, so each class is divided alike up to one image. One more image can move one other
    of its class at each cut, and none of another class; which parts those are depends on nothing
    but the hashes.

    Args:
        hashes: uniform over the integers, of the content of each image.
        classes: any integers; images without a label are a class of their own.
        shares: of the parts; positive, and their sum is 1.
    """
    keys, groups = hashes.numpy(), classes.numpy()
    order = np.lexsort((keys, groups))
    _, first, inverse, counts = np.unique(
        groups[order], return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.arange(len(order)) - first[inverse]
    parts = np.zeros(len(order), dtype=np.int64)
    for share in list(accumulate(shares))[:-1]:
        cuts = np.floor(counts * share + 0.5)
        parts += ranks >= cuts[inverse]
    assigned = np.empty_like(parts)
    assigned[order] = parts
    return torch.from_numpy(assigned)
