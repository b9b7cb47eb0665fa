"""A layer in which shots look at each other."""

import torch
from torch import Tensor

from models.metalearning import context_layer
from models.metalearning.context_layer import ContextLayer


def layer() -> ContextLayer:
    torch.manual_seed(0)
    layer = ContextLayer(8, 2).requires_grad_(False)
    layer.same.data.copy_(torch.tensor([2.0, -1.0]))
    return layer


def tokens(count: int, repetitions: int = 1) -> Tensor:
    return torch.randn(repetitions, count, 8, generator=torch.Generator().manual_seed(1))


def test_attention_is_that_of_the_equation_with_a_bias_for_the_same_label():
    trained, shots, targets = layer(), tokens(4), torch.tensor([0, 1, 0, 1])

    transformed = trained(shots, *trained.look_at(shots), targets=targets)

    normed = trained.first_norm(shots[0])
    keys, values = trained.key_value(normed).chunk(2, dim=1)
    parts = []
    for head, bias in enumerate((2.0, -1.0)):
        part = slice(4 * head, 4 * head + 4)
        scores = trained.query(normed)[:, part] @ keys[:, part].T / 2
        attention = (scores + bias * (targets[:, None] == targets)).softmax(dim=1)
        parts.append(attention @ values[:, part])
    expected = shots[0] + trained.attended(torch.cat(parts, dim=1))
    expected = expected + trained.feed_forward(trained.second_norm(expected))
    assert torch.allclose(transformed[0], expected, atol=1e-5)


def test_shots_that_are_not_kept_are_not_seen():
    trained, shots, queries = layer(), tokens(5), tokens(3, 2)
    visible = torch.tensor([[True, True, False, True, True], [False, True, True, False, True]])
    repeated = shots.expand(2, -1, -1)

    hidden = trained(queries, *trained.look_at(repeated), visible=visible)

    for turn in range(2):
        fewer = shots[:, visible[turn]]
        expected = trained(queries[turn : turn + 1], *trained.look_at(fewer))
        assert torch.allclose(hidden[turn : turn + 1], expected, atol=1e-5)


def test_tokens_look_block_by_block(monkeypatch):
    trained, shots, targets = layer(), tokens(5), torch.tensor([0, 1, 0, 1, 1])
    whole = trained(shots, *trained.look_at(shots), targets=targets)

    monkeypatch.setattr(context_layer, "NUMBERS", 20)

    blocks = trained(shots, *trained.look_at(shots), targets=targets)
    assert torch.allclose(blocks, whole, atol=1e-5)
