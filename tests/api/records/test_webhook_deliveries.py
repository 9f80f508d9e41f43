from api.context import Context
from api.records import webhook_deliveries
from api.services import webhooks
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
