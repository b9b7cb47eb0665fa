"""States of training as safetensors: tensors and plain values, and nothing that could run."""

import json
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

PLAIN = "plain"  # the metadata entry that holds everything but the tensors
SIMPLE = bool | int | float | str | None


def pack(state: dict[str, Any]) -> bytes:
    """A nested state of dicts, lists, numbers, texts and tensors as one file.

    Raises:
        TypeError: a value is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_flatten(state, tensors))
    return safetensors.torch.save(tensors or {"": torch.zeros(0)}, {PLAIN: plain})


def unpack(content: bytes) -> dict[str, Any]:
    """The state that was packed.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        plain = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][PLAIN])
        state: dict[str, Any] = _restore(plain, tensors)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"the checkpoint cannot be read: {error}") from error
    return state


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()  # a file shares no memory
        return {"tensor": name}
    if isinstance(value, dict):
        # Keys of optimizer states are numbers, which JSON would turn into texts.
        items = _flatten(list(value.values()), tensors)
        return {"dict": list(zip(value, items, strict=True))}
    if isinstance(value, list | tuple):
        return [v if isinstance(v, SIMPLE) else _flatten(v, tensors) for v in value]
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _restore(item, tensors) for key, item in value["dict"]}
