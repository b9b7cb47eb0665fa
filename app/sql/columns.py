"""Columns that databases keep otherwise than Python."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import DateTime, LargeBinary, TypeDecorator
from sqlalchemy.engine import Dialect

Float16s = NDArray[np.float16]


class Vector(TypeDecorator[Float16s]):
    """A 1-D array of float16, stored little-endian."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Float16s | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.astype("<f2").tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Float16s | None:
        return None if value is None else np.frombuffer(value, "<f2").astype(np.float16)


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC whatever the database makes of time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)
