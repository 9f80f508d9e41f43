"""Queries of events, where one job has many."""

import re

import pytest
from sqlalchemy import event, text

from api.records import Database, event_feed, events
from tests.events import add_events
from tests.factories import a_job, a_project


@pytest.mark.parametrize("first", [True, False])
def test_page_and_stream_of_a_job_read_no_event_of_another(database: Database, first: bool) -> None:
    project = a_project(database)
    jobs = [a_job(database, project), a_job(database, project)]
    written = [add_events(database, job_id, 5000) for job_id in jobs]
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    job_id, ids = (jobs[0], written[0]) if first else (jobs[1], written[1])
    plans: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def explain(connection, cursor, statement, parameters, *_) -> None:
        if "FROM events" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN ANALYZE "
            plans.extend(str(row[-1]) for row in connection.exec_driver_sql(how + statement, parameters))

    with database.read() as session:
        page = events.page(session, job_id, after=None, limit=20).data
        rest = events.page(session, job_id, after=ids[2500], limit=20).data
        begin, _ = event_feed.read(session, job_id, 0, 20)
        later, _ = event_feed.read(session, job_id, begin[-1].seq, 20)
    assert [row.id for row in page] == ids[:-21:-1]
    assert [row.id for row in rest] == ids[2499:2479:-1]
    assert [row.id for row in [*begin, *later]] == ids[:40]
    bounded = "(job_id=? AND seq" if database.is_sqlite else ""
    assert sum(f"ix_events_job_id_seq {bounded}" in line for line in plans) == 4, plans
    read = [int(hit[1]) for line in plans for hit in re.finditer(r"^        Buffers: shared hit=(\d+)", line)]
    assert max(read, default=0) < 20, plans
    assert not any("Removed by Filter" in line or "Sort" in line or "TEMP B-TREE" in line for line in plans), plans


def test_a_message_with_nul_is_stored(database: Database) -> None:
    """As a model may sample it; PostgreSQL refuses NUL in a text."""
    job_id = a_job(database, a_project(database))
    with database.write() as session:
        events.add_event(session, job_id, "Step 1 sample: a\0b")
    with database.read() as session:
        [stored] = events.page(session, job_id, after=None, limit=1).data
    assert stored.message == "Step 1 sample: a\N{REPLACEMENT CHARACTER}b"


def test_one_statement_deletes_few_events(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other writers to SQLite wait meanwhile, and a job may have a million."""
    monkeypatch.setattr(events, "BATCH", 2)
    job_id = a_job(database, a_project(database))
    add_events(database, job_id, 5)
    with database.write() as session:
        events.delete_of(session, [job_id])
        assert len(events.page(session, job_id, after=None, limit=9).data) == 3
