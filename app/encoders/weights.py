"""Weights that a client brought: safetensors of the right shape, or refused."""

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from app.problems import UnsupportedMediaType, WeightsRefused

MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; that of a large network has 100 KiB
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def check_weights(content: bytes, state: dict[str, Tensor]) -> None:
    """Refuse what is not safetensors with exactly these tensors, all of finite numbers."""
    if content[:2] == b"PK" or content[:1] == b"\x80":
        raise UnsupportedMediaType(
            "this looks like a pickle of PyTorch, which can run code and is never read: "
            "save the state_dict with safetensors.torch.save_file"
        )
    header = int.from_bytes(content[:8], "little")
    if len(content) < 8 or header > min(MAX_HEADER_BYTES, len(content) - 8):
        raise UnsupportedMediaType(
            f"this is not a safetensors file: its header would have {header} of {len(content)} "
            "bytes; save the state_dict with safetensors.torch.save_file"
        )
    try:
        tensors = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise UnsupportedMediaType(f"this is not a safetensors file: {error}") from error
    missing = sorted(state.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - state.keys())
    if missing or unknown:
        raise WeightsRefused(
            f"{len(missing)} tensors are missing and {len(unknown)} are not of this "
            f"architecture, such as {(missing + unknown)[0][:100]!r}"
        )
    for name, tensor in state.items():
        shape, dtype = list(tensor.shape), DTYPES[tensor.dtype]
        if (tensors[name]["shape"], tensors[name]["dtype"]) != (shape, dtype):
            raise WeightsRefused(
                f"tensor {name!r} is {tensors[name]['dtype']} {tensors[name]['shape']}, "
                f"not {dtype} {shape}"
            )
    for name, tensor in safetensors.torch.load(content).items():
        if not bool(tensor.isfinite().all()):
            raise WeightsRefused(f"tensor {name!r} has values that are not finite")
