"""The courier: a thread of every worker that tells users' webhooks how jobs ended. A slow receiver holds up only it."""

import asyncio
import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.outbound import NotSent, post
from api.records import webhooks
from api.records.webhooks import Delivery, Webhook
from api.webhooks import headers, message

log = structlog.get_logger(__name__)

AT_ONCE = 16


class Courier:
    def __init__(self, context: Context, stopping: threading.Event) -> None:
        self._context, self._stopping = context, stopping

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                delivered = deliver_due(self._context)
            except SQLAlchemyError as error:
                log.warning("courier_failed", error=type(error).__name__)
                delivered = 0
            except Exception:
                log.exception("courier_failed")
                delivered = 0
            if delivered < AT_ONCE:
                self._stopping.wait(self._context.settings.poll_s)


def deliver_due(context: Context) -> int:
    """Try what is to be tried now. Returns how many there were."""
    with context.database.read() as session:
        if not webhooks.any_due(session):
            return 0
    with context.database.write() as session:
        taken = webhooks.take_due(session, AT_ONCE)
    results = asyncio.run(_deliver_all(context, taken))
    with context.database.write() as session:
        for (delivery, _, _), (status, error) in zip(taken, results, strict=True):
            webhooks.record(session, delivery.id, attempt=delivery.attempts, status=status, error=error)
    return len(taken)


async def _deliver_all(
    context: Context, taken: list[tuple[Delivery, Webhook, list[str]]]
) -> list[tuple[int | None, str | None]]:
    return await asyncio.gather(*(_deliver(context, *each) for each in taken))


async def _deliver(
    context: Context, delivery: Delivery, webhook: Webhook, secrets: list[str]
) -> tuple[int | None, str | None]:
    """The receiver's status, and what was wrong (None: nothing)."""
    body = message(delivery.event_id, delivery.event_type, delivery.object_id, delivery.created_at)
    try:
        status = await post(
            webhook.url, body, headers(delivery.event_id, body, secrets), context.settings.private_webhook_hosts
        )
    except NotSent as error:
        return None, str(error)
    except Exception:  # a fault of ours, which must not keep the others of the batch from being written down
        log.exception("delivery_broke", delivery_id=delivery.id)
        return None, "the server had an error while it was sent"
    if 200 <= status < 300:
        return status, None
    return status, f"the endpoint answered {status}, and only 2xx counts as delivered"
