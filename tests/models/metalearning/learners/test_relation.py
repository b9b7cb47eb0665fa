"""Relation networks."""

import pytest
import torch
from torch.nn import functional as F

from models.metalearning.learners import relation
from models.metalearning.learners.relation import Relation


def network(dim: int = 12, **options: int):
    torch.manual_seed(0)
    network = Relation(**options).network(dim).requires_grad_(False)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def shots(*numbers: int, dim: int = 12):
    torch.manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(numbers))
    return F.normalize(torch.randn(len(targets), dim), dim=1), targets


def test_a_network_of_both_adds_to_the_distance():
    trained, (support, targets), query = network(width=5), shots(2, 3), shots(4)[0]

    log_odds = trained.answer(trained.condense(support, targets, 2), query)

    prototypes = torch.stack([support[:2].mean(dim=0), support[2:].mean(dim=0)])
    pairs = torch.cat([prototypes.expand(4, 2, 12), query[:, None].expand(4, 2, 12)], dim=2)
    first = torch.cat([trained.of_prototype.weight, trained.of_query.weight], dim=1)
    hidden = (pairs @ first.T + trained.of_prototype.bias).relu()
    relations = trained.out(trained.hidden(hidden).relu()).squeeze(2)
    distances = trained.log_scale.exp() * torch.cdist(query, prototypes).square()
    expected = (relations - distances).log_softmax(1)
    assert torch.allclose(log_odds.log_softmax(1), expected, atol=1e-4)


def test_queries_are_related_block_by_block(monkeypatch):
    trained, (support, targets), query = network(), shots(2, 3, 1), shots(7)[0]
    condensed = trained.condense(support, targets, 3)
    whole = trained.answer(condensed, query)

    monkeypatch.setattr(relation, "NUMBERS", 1)

    assert torch.allclose(trained.answer(condensed, query), whole, atol=1e-5)


def test_a_width_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match="width must be from 1 to 4096"):
        Relation(width=5000)
