"""Parameters that several routes take."""

import asyncio
from uuid import UUID

import pytest

from app.api.answers import page
from app.http.parameters import after, etag, read_edition
from app.problems import InvalidRequest, Stale

IDS = [UUID(int=n) for n in range(1, 6)]


def edition(header):
    return asyncio.run(read_edition(header))


def test_a_cursor_leads_behind_the_last_item_of_its_page():
    first = page(IDS[:3], 2, key=lambda item: item, show=str)

    assert first.items == [str(IDS[0]), str(IDS[1])]
    assert after(first.next_cursor) == IDS[1]


def test_the_last_page_has_no_cursor():
    last = page(IDS[:2], 2, key=lambda item: item, show=str)

    assert last.next_cursor is None
    assert after(None) is None


@pytest.mark.parametrize("cursor", ["none", "ä", "AAAA", "=" * 22])
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(InvalidRequest, match="start without a cursor"):
        after(cursor)


@pytest.mark.parametrize("header", [None, "*", " * "])
def test_any_edition_will_do(header):
    assert edition(header) is None


def test_an_etag_names_the_edition_that_it_was_made_of():
    assert edition(etag(17)) == 17


@pytest.mark.parametrize("header", ["17", 'W/"17"', '"seventeen"', '"1", "2"'])
def test_what_is_no_etag_of_ours_is_stale(header):
    with pytest.raises(Stale, match="not an ETag"):
        edition(header)


def test_an_unknown_parameter_is_answered_with_the_closest(service):
    answer = service.get("/v1/projects", params={"limt": 3})

    assert answer.status_code == 422
    assert "did you mean 'limit'?" in answer.json()["detail"]
