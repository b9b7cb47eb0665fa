"""Columns that databases keep otherwise than Python, and the base of all tables."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, DateTime, LargeBinary, MetaData, String, TypeDecorator, Uuid
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

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


class Table(DeclarativeBase):
    """Base of every table: constraint names that Alembic can rely on."""

    metadata = MetaData(
        naming_convention={
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "pk": "%(table_name)s_pkey",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Moment,
        str: Text,
        dict[str, Any]: JSON,
        list[str]: JSON,
        UUID: Uuid,
    }
