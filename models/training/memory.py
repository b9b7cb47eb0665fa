"""How much memory there is to train in."""

from pathlib import Path

import torch

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # from which on a limit is none


def memory_of(device: torch.device) -> int | None:
    """Bytes that a device has in all; None: the system does not say.

    Of a processor, what its machine has, or what the group of the process may have of it (a
    container, for example), if that is less.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [size for size in (_machine(), *_groups()) if size is not None and size < UNLIMITED]
    return min(limits, default=None)


def _machine() -> int | None:
    """Of the machine."""
    path = PROC / "meminfo"
    lines = path.read_text().splitlines() if path.exists() else []
    sizes = [line.split()[1] for line in lines if line.startswith("MemTotal:")]
    return int(sizes[0]) * 1024 if sizes else None


def _groups() -> list[int | None]:
    """Limits of the group of this process and of those around it, whatever version groups have."""
    path = PROC / "self/cgroup"
    limits = []
    for line in path.read_text().splitlines() if path.exists() else []:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (
            (CGROUPS / "memory", "memory.limit_in_bytes")
            if controllers
            else (CGROUPS, "memory.max")
        )
        inside = root / group.lstrip("/")
        limits += [_limit(folder / file) for folder in (inside, *inside.parents)]
    return limits


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
