"""An image on its way through inference: queued, decoded, embedded."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple
from uuid import UUID

from torch import Tensor

from app.problems import Problem
from models.images import Decoded, Preprocessing


class Embedded(NamedTuple):
    """An image that was decoded and embedded."""

    vector: Tensor  # (D,), float16, unit length
    media_type: str
    width: int  # pixels, upright
    height: int


Outcome = Embedded | Problem


class QueuedImage(NamedTuple):
    """An image that was admitted; of two the lesser one goes first."""

    due: float  # by time.monotonic(); the earliest goes first
    number: int  # of equals the one that came first
    version: UUID
    content: bytes
    preprocessing: Preprocessing
    is_cancelled: Callable[[], bool]  # by who waited for it
    outcome: "Future[Outcome]"  # cancelled when the image was


class DecodedImage(NamedTuple):
    """An image that waits for a model thread; ordered as it was queued."""

    queued: QueuedImage
    decoded: Decoded
    since: float  # by time.monotonic()
