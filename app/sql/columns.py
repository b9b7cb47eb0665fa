"""Columns that databases keep otherwise than Python."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import DateTime, LargeBinary, String, TypeDecorator
from sqlalchemy.engine import Dialect

from app.problems import InvalidRequest
from handful.contract.common import UNPRINTABLE

Float16s = NDArray[np.float16]


class Vector(TypeDecorator[Float16s]):
    """A 1-D array of float16, stored little-endian."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Float16s | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.astype("<f2").tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> Float16s | None:
        return None if value is None else np.frombuffer(value, "<f2").astype(np.float16)


class Text(TypeDecorator[str]):
    """What every database keeps; whatever is stored or asked for passes here."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is not None and UNPRINTABLE.search(value):
            raise InvalidRequest(f"{value!r:.80} has a control character, or half of a pair")
        return value


class Moment(TypeDecorator[datetime]):
    """A point in time, in UTC whatever the database makes of time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)
