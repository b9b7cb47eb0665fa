"""Prototypes and queries, each by a map of its own."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models.metalearning.learners.projections import Projections


def test_distances_are_those_between_what_both_maps_make():
    torch.manual_seed(0)
    trained: Any = Projections(width=3).network(12).requires_grad_(False)
    for parameter in trained.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    support, query = F.normalize(torch.randn(5, 12), dim=1), F.normalize(torch.randn(4, 12), dim=1)
    targets = torch.tensor([0, 0, 1, 1, 1])

    log_odds = trained.answer(trained.condense(support, targets, 2), query)

    prototypes = torch.stack([support[:2].mean(dim=0), support[2:].mean(dim=0)])
    of_prototype, of_query = (
        torch.eye(12) + part.up.weight @ part.down.weight
        for part in (trained.of_prototype, trained.of_query)
    )
    distances = torch.cdist(query @ of_query.T, prototypes @ of_prototype.T).square()
    expected = (-trained.log_scale.exp() * distances).log_softmax(1)
    assert torch.allclose(log_odds.log_softmax(1), expected, atol=1e-4)


def test_a_width_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match="width must be from 1 to 4096"):
        Projections(width=0)
