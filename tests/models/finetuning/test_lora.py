"""Low-rank adaptation."""

import torch
from torch import nn

from models.finetuning.lora import adapt, merge


def test_nothing_changes_before_the_first_step_and_only_the_differences_learn():
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    inputs = torch.rand(3, 6)
    before = network(inputs)

    adapt(network, 2)

    assert torch.equal(network(inputs), before)
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {
        f"{n}.parametrizations.weight.0.{part}" for n in (0, 2) for part in ("up", "down")
    }


def test_a_merged_difference_has_the_rank_asked_for():
    layer = nn.Linear(6, 5)
    before = layer.weight.detach().clone()
    network = nn.Sequential(layer)
    adapt(network, 2)
    with torch.no_grad():
        network.get_parameter("0.parametrizations.weight.0.up").normal_()
    expected = network(torch.eye(6))

    merge(network)

    assert torch.allclose(network(torch.eye(6)), expected)
    assert torch.linalg.matrix_rank(network.get_parameter("0.weight") - before) == 2
    assert set(network.state_dict()) == {"0.weight", "0.bias"}
