"""Connections to both databases."""

import errno
import json
import re

import psycopg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from api.records import Database
from api.records.base import db_now
from api.records.database import is_outage
from api.records.webhook_deliveries import Delivery
from tests.factories import a_job, a_project, the_job
from tests.services.postgres import EMPTIES


def test_connections_that_the_server_closed_are_replaced_before_they_are_used(postgres_url: str) -> None:
    database, other = Database(postgres_url), Database(postgres_url)
    with database.read() as first, database.read() as second:
        for session in (first, second):
            session.execute(text("SELECT 1"))
    with other.write() as session:
        here = "datname = current_database() AND pid <> pg_backend_pid() AND application_name <> :tests"
        end = text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {here}")
        ended = session.scalars(end, {"tests": EMPTIES})
        assert ended.all() == [True, True]
    with database.read() as first, database.write() as second:
        assert [session.scalar(text("SELECT 1")) for session in (first, second)] == [1, 1]
    database.dispose()
    other.dispose()


def test_query_of_a_read_session_leaves_no_transaction_open(database: Database) -> None:
    with database.read() as session, database.read() as other:
        a_job(database, a_project(database))
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 1
        a_job(database, a_project(database))
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 2
        if not database.is_sqlite:
            states = other.scalars(text("SELECT state FROM pg_stat_activity WHERE datname = current_database()")).all()
            assert "idle in transaction" not in states


def test_an_index_finds_the_rows_before_a_time(database: Database) -> None:
    due = select(Delivery.id).where(Delivery.due_at <= db_now())
    query = str(due.compile(database.engine, compile_kwargs={"literal_binds": True}))
    with database.write() as session:
        if not database.is_sqlite:
            session.execute(text("SET LOCAL enable_seqscan = off"))  # the table is empty
        plan = session.execute(text(f"EXPLAIN {'QUERY PLAN ' * database.is_sqlite}{query}")).all()
    assert re.search(r"\(due_at<\?\)|Index Cond: \(due_at <=", str(plan)), plan


@pytest.mark.parametrize("value", [float("nan"), "\ud800", 2**70, 1e-300, {"a": [None, True]}])
def test_stored_json_is_read_as_it_was_written(sqlite_url: str, value: object) -> None:
    """PostgreSQL refuses NaN."""
    database = Database(sqlite_url)
    job_id = a_job(database, a_project(database), progress={"value": value})
    assert json.dumps(the_job(database, job_id).progress) == json.dumps({"value": value})
    database.dispose()


def test_a_process_without_a_free_descriptor_cannot_reach_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(psycopg, "connect", connect)
    with pytest.raises(DBAPIError, match="Too many open files") as raised:
        Database("postgresql://nobody@127.0.0.1/nothing").ping()
    assert is_outage(raised.value)
