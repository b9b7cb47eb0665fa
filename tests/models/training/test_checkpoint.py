"""States of training as safetensors."""

from typing import Any

import pytest
import torch

from models.training.checkpoint import pack, unpack


def test_a_state_comes_back_as_it_was():
    weights = torch.randn(3, 4)
    state: dict[str, Any] = {
        "weights": weights,
        "tied": weights,
        "empty": torch.zeros(0),
        "states": {0: {"step": torch.tensor(3.0)}, 1: {}},
        "plain": [1, 2.5, None, True, "text", {"tensor": 1}],
        "half": torch.ones(2, dtype=torch.bfloat16),
    }

    back = unpack(pack(state))

    assert back.keys() == state.keys()
    for name in ("weights", "tied", "empty", "half"):
        assert torch.equal(back[name], state[name])
        assert back[name].dtype == state[name].dtype
    assert back["states"][0]["step"] == 3.0
    assert back["plain"] == state["plain"]


def test_an_optimizer_goes_on_from_a_file():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()

    second = torch.optim.AdamW([weight])
    second.load_state_dict(unpack(pack(optimizer.state_dict())))

    assert torch.equal(second.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg"])


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match="cannot hold a function"):
        pack({"code": lambda: None})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", pack({"a": 1})[:-5]])
def test_a_damaged_file_is_refused(content):
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(content)
