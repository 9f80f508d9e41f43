"""The threads beside an attempt outlive whatever goes wrong around them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from api.context import Context
from api.records import job_queue, jobs
from api.records.job_queue import Claim
from api.records.jobs import Job
from api.settings import Settings
from api.spec.lifecycle import JobStatus, Stage
from tests.end_to_end.jobs import wait_until
from tests.factories import a_job, a_project, the_job
from worker.supervisor.lease import Heartbeat
from worker.supervisor.logs import LogUploader
from worker.supervisor.node import Node


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url, heartbeat_s=0.02, poll_s=0.02)


@pytest.fixture
def claim(context: Context) -> Claim:
    a_job(context.database, a_project(context.database))
    with context.database.write() as session:
        claim = job_queue.claim(session, Stage.TRAIN, owner="w", lease_s=60, gpus=0)
    assert claim is not None
    return claim


def only_be_read(session: Session) -> None:
    postgresql = session.get_bind().dialect.name == "postgresql"
    session.execute(text("SET TRANSACTION READ ONLY" if postgresql else "PRAGMA query_only = ON"))


def be_full(session: Session) -> None:
    """SQLite's own limit, reached; PostgreSQL raises what it raises for a full disk."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$"))
    pages = session.execute(text("PRAGMA page_count")).scalar_one()
    session.execute(text(f"PRAGMA max_page_count = {pages}"))
    session.execute(text("CREATE TABLE filler (bytes BLOB)"))


def want_a_missing_table(session: Session) -> None:
    session.execute(text("SELECT * FROM none_such"))


def break_otherwise(session: Session) -> None:
    raise ValueError("a defect of our own")


@dataclass
class Fault:
    """`act` is done in each transaction, while it is set."""

    act: Callable[[Session], None] | None = None
    met: int = 0


@pytest.fixture
def fault(context: Context, monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault, write = Fault(), context.database.write

    @contextmanager
    def faulty() -> Iterator[Session]:
        act = fault.act
        fault.met += int(act is not None)
        with write() as session:
            if act is not None:
                act(session)
            yield session

    monkeypatch.setattr(context.database, "write", faulty)
    return fault


@pytest.mark.parametrize("act", [only_be_read, be_full, want_a_missing_table, break_otherwise])
def test_a_heartbeat_survives_every_error_and_beats_on(
    context: Context, claim: Claim, fault: Fault, act: Callable[[Session], None]
) -> None:
    with Heartbeat(context, claim) as beat:
        fault.act = act
        wait_until(lambda: fault.met >= 3)
        fault.act = None
        context.database.engine.dispose()  # SQLite keeps with a connection what it was told
        with context.database.write() as session:
            session.execute(update(Job).values(lease_until=0))
        wait_until(lambda: (the_job(context.database, claim.job_id).lease_until or 0) > 0)
        assert not beat.lost.is_set()
        with context.database.write() as session:
            jobs.transition(session, claim.job_id, JobStatus.CANCELLED, message="Cancelled")
        wait_until(beat.lost.is_set)


def test_a_log_that_cannot_be_stored_fails_no_attempt(
    context: Context, claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node.open(context, Stage.TRAIN)

    def broken(*_: object) -> bytes:
        raise RuntimeError("a defect of our own")

    monkeypatch.setattr("worker.supervisor.logs.read_tail", broken)
    log = tmp_path / "log.txt"
    with LogUploader(node, claim, log):
        log.write_text("text")
    assert the_job(context.database, claim.job_id).status == JobStatus.RUNNING
