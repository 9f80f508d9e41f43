"""The database's clock was set back by an hour: every time that was written before is an hour too late."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from api.context import Context
from api.records import trackings, webhook_deliveries
from api.records.base import current_time, db_now
from api.records.trackings import BACK_OFF_S, HUB, ExportTask
from api.records.webhook_deliveries import Delivery
from api.services import webhooks
from api.settings import Settings
from tests.factories import a_caller, a_job
from tests.query_plans import query_plans
from worker.delivery.clock_steps import ClockStepCorrector
from worker.delivery.deliverer import Deliverer
from worker.delivery.hub import LEASE_S as PUSH_S
from worker.delivery.metrics import IDLE_S, LEASE_S
from worker.delivery.webhooks import BACK_OFF_S as WEBHOOK_BACK_OFF_S

HOUR_S = 3600.0
EVENT = "fine_tuning.job.succeeded"


@pytest.fixture
def deliverer(tmp_path: Path, database_url: str) -> Iterator[Deliverer]:
    context = Context.open(Settings(data_dir=tmp_path, database_url=database_url))
    yield Deliverer.open(context)
    context.database.dispose()


def left_s(deliverer: Deliverer, column: Any) -> float:
    ClockStepCorrector(deliverer).shorten_waits()
    with deliverer.context.database.read() as session:
        return float(session.scalars(select(column)).one() - current_time(session))


@pytest.mark.parametrize(("attempts", "longest_s"), [(0, 0), (1, WEBHOOK_BACK_OFF_S[0]), (5, WEBHOOK_BACK_OFF_S[4])])
def test_a_webhook_waits_no_longer_than_after_its_last_attempt(
    deliverer: Deliverer, attempts: int, longest_s: float
) -> None:
    context = deliverer.context
    caller = a_caller(context.database)
    webhooks.create(context, caller, name="w", url="https://hooks.example/x", event_types=[EVENT])
    with context.database.write() as session:
        webhook_deliveries.enqueue(session, caller.project_id, "job", EVENT)
        session.execute(update(Delivery).values(attempts=attempts, due_at=db_now() + longest_s + HOUR_S))
    assert longest_s - 20 < left_s(deliverer, Delivery.due_at) <= longest_s + 0.1


@pytest.mark.parametrize(("failures", "longest_s"), [(0, IDLE_S), (1, BACK_OFF_S[0]), (99, BACK_OFF_S[-1])])
def test_a_tracker_waits_no_longer_than_after_its_last_attempt(
    deliverer: Deliverer, failures: int, longest_s: float
) -> None:
    add_task(deliverer, "mlflow", failures=failures, due_at=db_now() + longest_s + HOUR_S)
    assert longest_s - 20 < left_s(deliverer, ExportTask.due_at) <= longest_s + 0.1


@pytest.mark.parametrize(("tracker", "longest_s"), [("mlflow", LEASE_S), (HUB, PUSH_S)])
def test_a_lost_deliverers_lease_ends_as_soon_as_any(deliverer: Deliverer, tracker: str, longest_s: float) -> None:
    add_task(deliverer, tracker, owner="lost", lease_until=db_now() + longest_s + HOUR_S)
    assert longest_s - 20 < left_s(deliverer, ExportTask.lease_until) <= longest_s + 0.1


def add_task(deliverer: Deliverer, tracker: str, **values: Any) -> None:
    database = deliverer.context.database
    job_id = a_job(database, a_caller(database).project_id)
    with database.write() as session:
        trackings.add(session, job_id, tracker, at_once=True)
        session.execute(update(ExportTask).values(values))


def test_ended_deliveries_and_tasks_are_not_read(deliverer: Deliverer) -> None:
    """Deliverers look every few seconds, and an installation keeps the tasks of every job."""
    database = deliverer.context.database
    with query_plans(database) as plans:
        ClockStepCorrector(deliverer).shorten_waits()
        with database.write() as session:
            trackings.held(session, HUB, deliverer.owner)
            trackings.release(session, HUB, deliverer.owner)
    tables = [plan.partition(" USING ")[0] for plan in plans]
    expected = ["SEARCH webhook_deliveries", *["SEARCH trackings"] * 4]
    assert tables == expected * database.is_sqlite, plans
