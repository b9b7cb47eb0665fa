"""Weights in files: stored as safetensors; of a client, of the right shape, or refused."""

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from app.problems import UnsupportedMediaType, WeightsRefused
from app.storage.blobs import Blobs

MAX_HEADER_BYTES = 4 << 20  # of a safetensors file; that of a large network has 100 KiB
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}


def store_weights(blobs: Blobs, network: nn.Module) -> str:
    """Store the weights of a network as safetensors; the SHA-256 of their file."""
    state = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    return blobs.put(safetensors.torch.save(state))


def check_weights(file: Path, state: dict[str, Tensor]) -> None:
    """Refuse what is not safetensors with exactly these tensors, all of finite numbers."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        raise UnsupportedMediaType(
            "this looks like a pickle of PyTorch, which can run code and is never read: "
            "save the state_dict with safetensors.torch.save_file"
        )
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header > min(MAX_HEADER_BYTES, size - 8):
        raise UnsupportedMediaType(
            f"this is not a safetensors file: its header would have {header} of {size} "
            "bytes; save the state_dict with safetensors.torch.save_file"
        )
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            _compare(tensors, state)
    except safetensors.SafetensorError as error:
        raise UnsupportedMediaType(f"this is not a safetensors file: {error}") from error


def _compare(tensors: safetensors.safe_open, state: dict[str, Tensor]) -> None:
    """Look at tensors of a file one after another, and at those that a network has."""
    names = set(tensors.keys())  # type: ignore[no-untyped-call]
    missing = sorted(state.keys() - names)
    unknown = sorted(names - state.keys())
    if missing or unknown:
        raise WeightsRefused(
            f"{len(missing)} tensors are missing and {len(unknown)} are not of this "
            f"architecture, such as {(missing + unknown)[0][:100]!r}"
        )
    for name, tensor in state.items():
        part = tensors.get_slice(name)  # type: ignore[no-untyped-call]
        shape, dtype = list(tensor.shape), DTYPES[tensor.dtype]
        if (part.get_shape(), part.get_dtype()) != (shape, dtype):
            raise WeightsRefused(
                f"tensor {name!r} is {part.get_dtype()} {part.get_shape()}, not {dtype} {shape}"
            )
    for name in state:
        values: Tensor = tensors.get_tensor(name)  # type: ignore[no-untyped-call]
        if not bool(values.isfinite().all()):
            raise WeightsRefused(f"tensor {name!r} has values that are not finite")
