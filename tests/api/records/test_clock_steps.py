"""The database's clock was set back by an hour: every time that was written before is an hour too late."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute

from api.context import Context
from api.records import clock_steps, eval_runs, idempotency
from api.records.base import current_time, db_now
from api.records.batch_items import BatchItem
from api.records.batches import Batch
from api.records.eval_items import EvalItem
from api.records.eval_runs import EvalRun
from api.records.evals import Eval
from api.records.idempotency import IdempotentRequest
from api.records.jobs import Job
from api.settings import Settings
from api.spec.batch import BatchStatus
from api.spec.evals.status import RunStatus
from tests.factories import a_batch, a_job, a_project, an_eval
from tests.query_plans import query_plans

HOUR_S = 3600.0
BOUNDS: dict[str, float] = {"lease_s": 60, "wait_s": 120, "check_s": 30}


@pytest.fixture
def context(tmp_path: Path, database_url: str) -> Iterator[Context]:
    context = Context.open(Settings(data_dir=tmp_path, database_url=database_url))
    yield context
    context.database.dispose()


def a_run(context: Context, project: str, status: RunStatus, due_at: Any = None) -> str:
    eval_id = an_eval(context, project)
    with context.database.write() as session:
        run = eval_runs.add(session, session.get_one(Eval, eval_id), "k", {"source": {}}, name="r", pairs=None)
        run.status, run.due_at = status, due_at
    return run.id


@pytest.mark.parametrize(
    ("column", "longest_s"),
    [
        (Job.rung_at, 0),
        (Batch.due_at, 60),
        (BatchItem.due_at, 120),
        (EvalRun.due_at, 90),
        (EvalItem.due_at, 120),
        (IdempotentRequest.claimed_until, 60),
    ],
    ids=str,
)
def test_nothing_that_no_worker_holds_waits_for_the_hour(
    context: Context, column: InstrumentedAttribute[Any], longest_s: float
) -> None:
    project = a_project(context.database)
    a_job(context.database, project, rung_at=db_now() + HOUR_S)
    a_batch(context, project, BatchStatus.VALIDATING, due_at=db_now() + HOUR_S)
    a_run(context, project, RunStatus.QUEUED, due_at=db_now() + HOUR_S)
    batch_id, run_id = (
        a_batch(context, project, BatchStatus.IN_PROGRESS),
        a_run(context, project, RunStatus.IN_PROGRESS),
    )
    item: dict[str, Any] = {"line": 1, "due_at": db_now() + HOUR_S}
    with context.database.write() as session:
        session.add(EvalItem(work_id=run_id, row="{}", **item))
        session.add(BatchItem(work_id=batch_id, custom_id="a", start=0, bytes=1, **item))
        idempotency.claim(session, project, "key", request="r", owner="o", lease_s=HOUR_S)
        clock_steps.shorten(session, **BOUNDS)
    with context.database.read() as session:
        left_s = session.scalars(select(column).where(column.is_not(None))).one() - current_time(session)
    assert longest_s - 30 < left_s <= longest_s + 0.1


def test_a_batch_in_progress_keeps_the_end_of_its_window(context: Context) -> None:
    due_at = db_now() + HOUR_S
    batch_id = a_batch(context, a_project(context.database), BatchStatus.IN_PROGRESS, due_at=due_at)
    with context.database.write() as session:
        before = session.get_one(Batch, batch_id).due_at
        clock_steps.shorten(session, **BOUNDS)
    with context.database.read() as session:
        assert session.get_one(Batch, batch_id).due_at == before


def test_the_lease_of_a_held_item_is_shortened_to_a_lease(context: Context) -> None:
    run_id = a_run(context, a_project(context.database), RunStatus.IN_PROGRESS)
    with context.database.write() as session:
        session.add(EvalItem(work_id=run_id, line=1, row="{}", owner="worker", due_at=db_now() + HOUR_S))
        clock_steps.shorten(session, **BOUNDS)
    with context.database.read() as session:
        left_s = session.get_one(EvalItem, (run_id, 1)).due_at - current_time(session)  # type: ignore[operator]
    assert 30 < left_s <= 60.1


def test_what_has_ended_is_not_read(context: Context) -> None:
    """Workers look every few seconds, and an installation keeps millions of items."""
    with context.database.write() as session, query_plans(context.database) as plans:
        clock_steps.shorten(session, **BOUNDS)
    assert [plan for plan in plans if plan.startswith("SCAN ")] == ["SCAN workers"] * context.database.is_sqlite, plans
    items = [plan for plan in plans if "_items" in plan]
    assert len(items) == 2 * context.database.is_sqlite, plans
    assert all("_due (" in plan and "due_at>?" in plan for plan in items), plans
