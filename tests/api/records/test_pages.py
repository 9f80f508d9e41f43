"""Pages of rows, whatever the number of queries that they take."""

import pytest

from api.records import Database, events, pages
from tests.events import add_events
from tests.factories import a_job, a_project


@pytest.mark.parametrize("after", [None, 70])
@pytest.mark.parametrize("limit", [1, 3, 4, 50, 100, 1000])
def test_page_is_the_same_in_one_query_and_in_many(
    database: Database, limit: int, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "FIRST_ROWS", 3)
    job_id = a_job(database, a_project(database))
    newest_first = add_events(database, job_id, 100)[::-1]
    begin = 0 if after is None else after + 1
    cursor = None if after is None else newest_first[after]
    with database.read() as session:
        page = events.page(session, job_id, after=cursor, limit=limit)
    assert [event.id for event in page.data] == newest_first[begin : begin + limit]
    assert page.has_more == (begin + limit < 100)


def test_page_ends_early_where_its_rows_are_large(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FIRST_ROWS", 3)
    monkeypatch.setattr(pages, "MAX_BYTES", 2000)
    job_id = a_job(database, a_project(database))
    add_events(database, job_id, 100)
    with database.read() as session:
        page = events.page(session, job_id, after=None, limit=100)
    assert page.has_more
    assert 1500 < sum(map(pages.size_of, page.data)) <= 2000
