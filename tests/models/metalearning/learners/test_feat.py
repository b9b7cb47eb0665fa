"""FEAT."""

import pytest
import torch
from torch.nn import functional as F

from models.metalearning.learners import feat
from models.metalearning.learners.feat import Feat


def network(dim: int = 12, **options: int):
    torch.manual_seed(0)
    network = Feat(**options).network(dim).requires_grad_(False)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def shots(*numbers: int, dim: int = 12):
    torch.manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(numbers))
    return F.normalize(torch.randn(len(targets), dim), dim=1), targets


def test_prototypes_look_at_each_other():
    trained, (support, targets) = network(width=5), shots(2, 3)
    query = shots(4)[0]

    log_odds = trained.answer(trained.condense(support, targets, 2), query)

    prototypes = torch.stack([support[:2].mean(dim=0), support[2:].mean(dim=0)])
    scores = (prototypes @ trained.query.weight.T) @ (prototypes @ trained.key.weight.T).T
    attention = (scores / 5**0.5).softmax(dim=1)
    adapted = prototypes + attention @ prototypes @ trained.value.weight.T @ trained.out.weight.T
    distances = -trained.log_scale.exp() * torch.cdist(query, adapted).square()
    assert torch.allclose(log_odds.log_softmax(1), distances.log_softmax(1), atol=1e-4)


def test_shots_are_left_out_block_by_block(monkeypatch):
    trained, (support, targets) = network(), shots(1, 4, 2, 6)
    whole = trained.left_out(support, targets, 4, torch.arange(13))

    monkeypatch.setattr(feat, "NUMBERS", 1)

    blocks = trained.left_out(support, targets, 4, torch.arange(13))
    assert torch.allclose(blocks, whole, atol=1e-5)


def test_a_class_that_is_lost_alone_leaves_a_row_without_an_answer():
    trained, (support, targets) = network(), shots(1)

    log_odds = trained.left_out(support, targets, 1, torch.tensor([0]))

    assert log_odds.tolist() == [[-torch.inf]]


def test_a_width_out_of_bounds_is_refused():
    with pytest.raises(ValueError, match="width must be from 1 to 4096"):
        Feat(width=0)
