"""Whether the episodes of a job find the memory that they take, before it starts."""

import torch

from app.problems import NotEnoughMemory
from models.encoders import Encoder
from models.metalearning import MetaMethod
from models.metalearning.cost import TooLittleMemory, require_memory
from models.metalearning.episodes import EpisodeShape
from models.training.memory import memory_of

MIB = 1 << 20


def require_memory_here(
    method: MetaMethod, encoder: Encoder, shape: EpisodeShape, *, fresh: bool
) -> None:
    """Refuse a job whose episodes no device of this machine has the memory for.

    The worker that will do the job may have another machine, and asks again for its device.

    Raises:
        NotEnoughMemory: says how much they take, how much there is, and what would fit.
    """
    graphics = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    known = [memory_of(device) for device in (torch.device("cpu"), *graphics)]
    available = max((size for size in known if size is not None), default=None)
    require_memory_of(available, method, encoder, shape, fresh=fresh)


def require_memory_of(
    available: int | None,
    method: MetaMethod,
    encoder: Encoder,
    shape: EpisodeShape,
    *,
    fresh: bool,
) -> None:
    """The same for so many bytes; None: nobody knows how many there are.

    Raises:
        NotEnoughMemory: says how much they take, how much there is, and what would fit.
    """
    try:
        require_memory(method, encoder, shape, fresh=fresh, available=available)
    except TooLittleMemory as error:
        raise NotEnoughMemory(
            str(error),
            memory_mib=round(error.memory / MIB),
            available_mib=round(error.available / MIB),
            fitting=[
                {"options": dict(lighter.options), "memory_mib": round(lighter.memory / MIB)}
                for lighter in error.fitting
            ],
        ) from error
