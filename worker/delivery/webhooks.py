"""Deliveries to users' webhooks. They have a thread of their own, so that a slow endpoint delays nothing else."""

import asyncio

import structlog

from api.context import Context
from api.infra.outbound import DeliveryError, post
from api.infra.webhook_signature import headers, message
from api.records import webhook_deliveries
from api.records.webhook_deliveries import Delivery
from api.records.webhooks import Webhook
from worker.delivery.deliverer import Deliverer

log = structlog.get_logger(__name__)

BATCH = 16
"""Deliveries that are sent at the same time."""
BACK_OFF_S = (30, 120, 600, 1800, 7200, 18_000, 36_000, 36_000)
"""Seconds to wait after the first, second, … failed attempt. The delivery fails with the eighth failed attempt."""


class WebhookSender:
    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer

    def run(self) -> None:
        self._deliverer.repeat("webhooks", self._deliver_all_due, self._deliverer.context.settings.poll_s)

    def _deliver_all_due(self) -> None:
        while not self._deliverer.stopping.is_set() and deliver_due(self._deliverer.context) == BATCH:
            pass


def deliver_due(context: Context) -> int:
    """Send the next deliveries that are due, at most BATCH. Return their number."""
    with context.database.read() as session:
        if not webhook_deliveries.any_due(session):
            return 0
    with context.database.write() as session:
        due = webhook_deliveries.lease_due(session, BATCH, BACK_OFF_S)
    results = asyncio.run(_deliver_all(context, due))
    with context.database.write() as session:
        for (delivery, _, _), (status, error) in zip(due, results, strict=True):
            attempt = delivery.attempts
            last = attempt >= len(BACK_OFF_S)
            webhook_deliveries.record_attempt(
                session, delivery.id, attempt=attempt, last=last, status=status, error=error
            )
    return len(due)


async def _deliver_all(
    context: Context, due: list[tuple[Delivery, Webhook, list[str]]]
) -> list[tuple[int | None, str | None]]:
    return await asyncio.gather(*(_deliver(context, *delivery) for delivery in due))


async def _deliver(
    context: Context, delivery: Delivery, webhook: Webhook, secrets: list[str]
) -> tuple[int | None, str | None]:
    """Send a delivery. Return the endpoint's HTTP status, if it answered, and an error, if the delivery failed."""
    body = message(delivery.event_id, delivery.event_type, delivery.object_id, delivery.created_at)
    try:
        status = await post(
            webhook.url, body, headers(delivery.event_id, body, secrets), context.settings.private_webhook_hosts
        )
    except DeliveryError as error:
        return None, str(error)
    except Exception as error:  # of any kind: one failure must not end the deliveries of others
        log.exception("delivery_failed", delivery_id=delivery.id)
        return None, f"the request could not be sent ({type(error).__name__})"
    if 200 <= status < 300:
        return status, None
    return status, f"the endpoint answered {status}; only 2xx counts as delivered"
