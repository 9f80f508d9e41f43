"""The courier: a deliverer's thread that tells users' webhooks how jobs ended. A slow receiver holds up only it."""

import asyncio

import structlog

from api.context import Context
from api.infra.outbound import DeliveryError, post
from api.infra.webhook_signature import headers, message
from api.records import webhooks
from api.records.webhooks import Delivery, Webhook
from worker.delivery.deliverer import Deliverer

log = structlog.get_logger(__name__)

AT_ONCE = 16


class WebhookSender:
    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer

    def run(self) -> None:
        self._deliverer.repeat("courier", self._deliver_all_due, self._deliverer.context.settings.poll_s)

    def _deliver_all_due(self) -> None:
        while not self._deliverer.stopping.is_set() and deliver_due(self._deliverer.context) == AT_ONCE:
            pass


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
    except DeliveryError as error:
        return None, str(error)
    except Exception as error:  # one that cannot be sent must not take those of others with it
        log.exception("delivery_failed", delivery_id=delivery.id)
        return None, f"the request could not be made ({type(error).__name__})"
    if 200 <= status < 300:
        return status, None
    return status, f"the endpoint answered {status}, and only 2xx counts as delivered"
