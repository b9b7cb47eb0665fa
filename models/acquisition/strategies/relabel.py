"""Relabel: ask again where a label is probably wrong."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from models.acquisition import NoClasses, Pool, Ranking
from models.acquisition.strategies import strategies
from models.evaluation.label_errors import label_errors, label_quality


@strategies.register
@dataclass(frozen=True, kw_only=True)
class Relabel:
    """Pick labeled images whose label is probably wrong, the surest first (Northcutt et al., 2021).

    https://arxiv.org/abs/1911.00068

    Those off the diagonal of the confident joint of leave-one-out probabilities, by normalised
    margin (section 3.2), as in the report. It ranks labeled images, not the pool; where no label is
    in doubt there are none. An image alone with its label cannot be doubted by the others.
    """

    needs_classes: ClassVar[bool] = True
    of_labeled: ClassVar[bool] = True

    def rank(self, pool: Pool, budget: int) -> Ranking:
        if pool.left_out is None or not len(pool.labeled):
            raise NoClasses("this strategy needs at least two classes with labeled images")
        judged = (torch.bincount(pool.targets)[pool.targets] > 1).nonzero().squeeze(1)
        probabilities, targets = pool.left_out()[judged], pool.targets[judged]
        doubtful = label_errors(probabilities, targets).rows
        doubt = 1 - label_quality(probabilities[doubtful], targets[doubtful])
        position = torch.full((len(pool.embeddings),), -1)
        position[pool.rows] = torch.arange(len(pool))
        places = position[pool.labeled[judged[doubtful]]]
        in_pool = places >= 0
        return Ranking(places[in_pool][:budget], doubt[in_pool][:budget])
