import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from api.context import Context
from api.records import Database, webhook_deliveries
from api.records import webhooks as records
from api.services import webhooks
from api.settings import Settings
from tests.factories import a_caller

EVENT = "fine_tuning.job.succeeded"


def test_a_project_with_many_due_deliveries_does_not_delay_another(context: Context) -> None:
    busy, other = (a_caller(context.database, name) for name in ("busy", "other"))
    for caller in (busy, other):
        webhooks.create(context, caller, name="w", url="https://hooks.example/x", event_types=[EVENT])
    with context.database.write() as session:
        for number in range(10):
            webhook_deliveries.enqueue(session, busy.project_id, f"busy {number}", EVENT)
        webhook_deliveries.enqueue(session, other.project_id, "other", EVENT)
    with context.database.write() as session:
        taken = {delivery.object_id for delivery, _, _ in webhook_deliveries.lease_due(session, 4, [60])}
    assert len(taken) == 4
    assert "other" in taken


@pytest.fixture
def on_postgres(postgres_url: str, tmp_path: Path) -> Iterator[Context]:
    context = Context.open(Settings(data_dir=tmp_path, database_url=postgres_url))
    yield context
    context.database.dispose()


def wait_for_a_blocked_statement(database: Database) -> None:
    blocked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    while True:
        with database.read() as session:
            if session.scalar(blocked):
                return
        threading.Event().wait(0.01)


def test_a_webhook_is_deleted_while_a_job_ends(on_postgres: Context) -> None:
    caller = a_caller(on_postgres.database)
    webhook = webhooks.create(on_postgres, caller, name="w", url="https://hooks.example/x", event_types=[EVENT])
    with ThreadPoolExecutor(1) as pool:
        with on_postgres.database.write() as ending:
            webhook_deliveries.enqueue(ending, caller.project_id, "ftjob-a", EVENT)
            deleting = pool.submit(webhooks.delete, on_postgres, caller, webhook.id)
            wait_for_a_blocked_statement(on_postgres.database)
        deleting.result()
    with on_postgres.database.read() as session:
        assert not webhook_deliveries.any_due(session)


def test_a_job_ends_while_a_webhook_is_deleted(on_postgres: Context) -> None:
    caller = a_caller(on_postgres.database)
    webhook = webhooks.create(on_postgres, caller, name="w", url="https://hooks.example/x", event_types=[EVENT])

    def end_job() -> None:
        with on_postgres.database.write() as session:
            webhook_deliveries.enqueue(session, caller.project_id, "ftjob-a", EVENT)

    with ThreadPoolExecutor(1) as pool:
        with on_postgres.database.write() as deleting:
            records.remove(deleting, webhook)
            ending = pool.submit(end_job)
            wait_for_a_blocked_statement(on_postgres.database)
        ending.result()


@pytest.mark.parametrize("change", ["update", "rotate_secret"])
def test_a_webhook_that_is_deleted_meanwhile_cannot_be_changed(on_postgres: Context, change: str) -> None:
    caller = a_caller(on_postgres.database)
    webhook = webhooks.create(on_postgres, caller, name="w", url="https://hooks.example/x", event_types=[EVENT])

    def change_it() -> None:
        if change == "update":
            webhooks.update(on_postgres, caller, webhook.id, name="v", url=None, event_types=None)
        else:
            webhooks.rotate_secret(on_postgres, caller, webhook.id, keep_old=False)

    with ThreadPoolExecutor(1) as pool:
        with on_postgres.database.write() as deleting:
            records.remove(deleting, webhook)
            changing = pool.submit(change_it)
            wait_for_a_blocked_statement(on_postgres.database)
        with pytest.raises(webhooks.NoSuchWebhook):
            changing.result()
