"""Columns that databases keep otherwise than Python."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from sqlalchemy.dialects import postgresql, sqlite

from app.sql.columns import Moment, Vector

DIALECTS = [sqlite.dialect(), postgresql.dialect()]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_vector_is_two_bytes_a_number_the_lower_one_first(dialect):
    vector = np.array([1.0, -2.5, 0.1], np.float16)

    stored = Vector().process_bind_param(vector, dialect)
    restored = Vector().process_result_value(stored, dialect)

    assert stored is not None
    assert stored[:2] == b"\x00\x3c"
    assert restored is not None
    assert np.array_equal(restored, vector)
    assert Vector().process_bind_param(None, dialect) is None
    assert Vector().process_result_value(None, dialect) is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_moment_is_kept_and_read_in_utc(dialect):
    berlin = datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))

    stored = Moment().process_bind_param(berlin, dialect)

    assert (stored.hour, stored.tzinfo) == (12, UTC)
    assert Moment().process_result_value(stored.replace(tzinfo=None), dialect) == berlin
    assert Moment().process_bind_param(None, dialect) is None
