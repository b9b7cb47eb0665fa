"""Networks that were converted for a runtime: how they are named, and how many are kept."""

import hashlib
from pathlib import Path

from models.encoders import Encoder

KEPT = 16  # of a runtime; the oldest goes first


def fingerprint(encoder: Encoder, *by: str) -> str:
    """Names a converted network: by its weights, its layers, and the versions that converted it."""
    digest = hashlib.sha256(" ".join([repr(encoder), *by]).encode())
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().data)
    return digest.hexdigest()


def forget_oldest(file: Path) -> list[Path]:
    """Delete what was kept longest of the converted networks beside one; which they are."""
    files = sorted(file.parent.glob(f"*{file.suffix}"), key=lambda path: path.stat().st_mtime)
    for oldest in files[:-KEPT]:
        oldest.unlink(missing_ok=True)
    return files[:-KEPT]
