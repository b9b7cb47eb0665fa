"""A transformer that looks at what is labeled."""

import pytest
import torch
from torch.nn import functional as F

from models.heads.network import HeadNetwork
from models.metalearning.learners import in_context
from models.metalearning.learners.in_context import InContext


def network(dim: int = 12):
    torch.manual_seed(0)
    network = InContext(width=8, attention_heads=2).network(dim).requires_grad_(False)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network


def shots(*numbers: int, dim: int = 12):
    torch.manual_seed(1)
    targets = torch.repeat_interleave(torch.arange(len(numbers)), torch.tensor(numbers))
    return F.normalize(torch.randn(len(targets), dim), dim=1), targets


def test_it_says_more_than_the_prototypes():
    trained, (support, targets), query = network(), shots(2, 3), shots(4)[0]

    condensed = trained.condense(support, targets, 2)

    near = query @ condensed.directions[:2].T + condensed.rest[0]
    correction = trained.answer(condensed, query) - near
    assert correction.std() > 0.1


def test_what_a_shot_is_called_matters_to_others():
    """Relabel a shot of one of three classes as one of another: the third is answered otherwise."""
    trained, (support, targets), query = network(), shots(3, 3, 3), shots(4)[0]
    for layer in trained.layers:
        layer.same.data.fill_(3.0)
    relabeled = targets.clone()
    relabeled[2] = 1

    first, second = (
        trained.answer(trained.condense(support, labels, 3), query)
        for labels in (targets, relabeled)
    )

    assert (first - second)[:, 2].abs().max() > 1e-3


@pytest.mark.parametrize("tokens", [1, 20, 10_000])
def test_folds_are_left_out_at_once_as_one_by_one(monkeypatch, tokens):
    trained, (support, targets) = network(), shots(1, 4, 20, 6)
    rows = torch.tensor([0, 3, 3, 10, 30, 29, 12])
    by_turns = HeadNetwork.left_out(trained, support, targets, 4, rows)

    monkeypatch.setattr(in_context, "TOKENS", tokens)

    assert torch.allclose(trained.left_out(support, targets, 4, rows), by_turns, atol=1e-4)


def test_of_many_shots_as_many_of_each_label_are_looked_at_and_prototypes_are_of_all():
    trained, (support, targets), query = network(), shots(1, 30, 50), shots(4)[0]
    whole = trained.condense(support, targets, 3)
    few = torch.tensor([0, 1, 2, 3, 31, 32, 33])  # what seven shots are

    trained.most_shots = 7
    condensed = trained.condense(support, targets, 3)

    assert torch.equal(condensed.directions, whole.directions)
    assert condensed.rest[2].shape[1] == 7
    alone = trained.condense(support[few], targets[few], 3)
    assert torch.allclose(condensed.rest[2], alone.rest[2])
    assert torch.allclose(condensed.rest[1], alone.rest[1], atol=1e-5)
    assert trained.answer(condensed, query).isfinite().all()
    left_out = trained.left_out(support, targets, 3, torch.arange(81))
    assert left_out[1:].isfinite().all()


def test_options_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="width must be a multiple of attention_heads, 4, got 30"):
        InContext(width=30)
    with pytest.raises(ValueError, match="layers must be from 1 to 12"):
        InContext(layers=0)
    with pytest.raises(ValueError, match="attention_heads must be from 1 to 16"):
        InContext(attention_heads=0)
