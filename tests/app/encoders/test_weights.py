"""Weights of clients are safetensors of the right shape, or refused."""

import pytest
import safetensors.torch
import torch

from app.encoders.weights import check_weights
from app.problems import UnsupportedMediaType, WeightsRefused

STATE = {"weight": torch.ones(2, 3), "steps": torch.tensor(1)}


@pytest.fixture
def check(tmp_path):
    """Checks the content of a file."""

    def write_and_check(content: bytes) -> None:
        file = tmp_path / "weights"
        file.write_bytes(content)
        check_weights(file, STATE)

    return write_and_check


def test_the_tensors_of_the_architecture_are_taken(check):
    check(safetensors.torch.save(STATE))


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"PK\x03\x04", b"\xff" * 16])
def test_what_is_no_safetensors_is_never_read(check, content):
    with pytest.raises(UnsupportedMediaType, match="safetensors"):
        check(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": torch.ones(1)}, "1 are not of this architecture, such as 'bias'"),
        ({"weight": torch.ones(3, 2)}, r"is F32 \[3, 2\], not F32 \[2, 3\]"),
        ({"weight": torch.ones(2, 3).half()}, "is F16"),
        ({"weight": torch.full((2, 3), torch.inf)}, "not finite"),
    ],
)
def test_tensors_of_another_architecture_are_refused(check, change, reason):
    with pytest.raises(WeightsRefused, match=reason):
        check(safetensors.torch.save(STATE | change))


def test_a_tensor_that_is_missing_is_named(check):
    with pytest.raises(WeightsRefused, match=r"1 tensors are missing .* such as 'steps'"):
        check(safetensors.torch.save({"weight": STATE["weight"]}))
