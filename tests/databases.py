"""The databases on which the same behaviour is promised."""

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def each(request) -> str:
    """The URL of a database of each kind; empty is SQLite in the service's folder."""
    return request.getfixturevalue("postgresql")() if request.param == "postgresql" else ""


# For a test, in a module that says `database_url = databases.each`, of what no database does.
only_sqlite = pytest.mark.parametrize("database_url", [""], ids=["sqlite"])
