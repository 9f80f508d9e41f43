"""Webhook endpoints, which are notified when a project's jobs, batches or runs of evals end.
worker/delivery/webhooks.py sends the requests."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, NotFound
from api.infra.outbound import DeliveryError, check_url, post
from api.infra.webhook_signature import headers, message, new_secret
from api.records import projects, webhook_deliveries, webhooks
from api.records.base import db_now
from api.records.pages import Page
from api.records.webhook_deliveries import PENDING, Delivery
from api.records.webhooks import Webhook
from api.spec.ids import new_id

MAX_WEBHOOKS = 20
OLD_SECRET_S = 24 * 3600


class NoSuchWebhook(NotFound):
    param = "webhook_endpoint_id"

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"No such webhook endpoint: {webhook_id[:64]}")


class NoSuchDelivery(NotFound):
    param = "delivery_id"

    def __init__(self, delivery_id: str) -> None:
        super().__init__(f"No such delivery of this webhook endpoint: {delivery_id[:64]}")


class TestNotSent(InvalidRequest):
    code = "webhook_not_reached"


def create(
    context: Context, caller: Caller, *, name: str, url: str, event_types: Sequence[str], repeated: bool = False
) -> Webhook:
    """Insert an endpoint.

    `repeated`: the client marked the request as a retry. It gets the endpoint that the first request created, if there
    is one. Raise InvalidRequest if the address is not allowed or the project has too many endpoints.
    """
    webhook = Webhook(
        id=new_id("webhook_"),
        project_id=caller.project_id,
        name=name,
        url=url,
        event_types=list(event_types),
        secret=new_secret(),
        created_at=db_now(),
        updated_at=db_now(),
    )
    check_url(url, context.settings.private_webhook_hosts)
    with context.database.write() as session:
        projects.lock(session, caller.project_id)
        if repeated and (first := webhooks.newest_like(session, webhook, context.settings.retried_create_s)):
            return first
        if webhooks.count(session, caller.project_id) >= MAX_WEBHOOKS:
            raise InvalidRequest(f"A project has at most {MAX_WEBHOOKS} webhook endpoints: delete one")
        session.add(webhook)
        session.flush()
        session.refresh(webhook)
    return webhook


def get(context: Context, caller: Caller, webhook_id: str) -> Webhook:
    with context.database.read() as session:
        return _require(session, caller, webhook_id)


def page(context: Context, caller: Caller, *, after: str | None, limit: int) -> Page[Webhook]:
    with context.database.read() as session:
        return webhooks.page(session, caller.project_id, after=after, limit=limit)


def update(
    context: Context,
    caller: Caller,
    webhook_id: str,
    *,
    name: str | None,
    url: str | None,
    event_types: Sequence[str] | None,
) -> Webhook:
    """Change the endpoint's fields. None leaves a field as it is."""
    if url is not None:
        check_url(url, context.settings.private_webhook_hosts)
    fields = {"name": name, "url": url, "event_types": None if event_types is None else list(event_types)}
    with context.database.write() as session:
        webhook = _lock(session, caller, webhook_id)
        changed = {
            field: value for field, value in fields.items() if value is not None and value != getattr(webhook, field)
        }
        for field, value in changed.items():
            setattr(webhook, field, value)
        if changed:
            webhook.updated_at = db_now()
        session.flush()
        session.refresh(webhook)
    return webhook


def rotate_secret(context: Context, caller: Caller, webhook_id: str, *, keep_old: bool) -> Webhook:
    """Create a new signing secret. With `keep_old`, deliveries are signed with both secrets for a day."""
    with context.database.write() as session:
        webhook = _lock(session, caller, webhook_id)
        webhook.old_secret = webhook.secret if keep_old else None
        webhook.old_secret_until = db_now() + OLD_SECRET_S if keep_old else None
        webhook.secret, webhook.updated_at = new_secret(), db_now()
        session.flush()
        session.refresh(webhook)
    return webhook


def delete(context: Context, caller: Caller, webhook_id: str) -> None:
    """Delete the endpoint with its delivery log and its pending deliveries."""
    with context.database.write() as session:
        webhook = _lock(session, caller, webhook_id)
        webhook_deliveries.remove_of(session, webhook)
        webhooks.remove(session, webhook)


async def test(context: Context, webhook: Webhook, event_type: str) -> int:
    """Send a sample event in the project's turn. Return the endpoint's HTTP status. Raise TestNotSent if there is no
    response, ConcurrencyLimitExceeded if too many tests of the project wait."""
    event_id = new_id("evt_test_")
    kind = event_type.partition(".")[0]
    object_id = {"batch": "batch_sample", "eval": "evalrun_sample"}.get(kind, "ftjob-sample")
    body = message(event_id, event_type, object_id, webhook.updated_at)
    signed = headers(event_id, body, [webhook.secret])
    try:
        async with context.webhook_tests.turn(webhook.project_id):
            return await post(webhook.url, body, signed, context.settings.private_webhook_hosts)
    except DeliveryError as error:
        raise TestNotSent(f"The endpoint could not be reached: {error}") from error


def delivery_page(
    context: Context, caller: Caller, webhook_id: str, *, after: str | None, limit: int
) -> Page[Delivery]:
    with context.database.read() as session:
        _require(session, caller, webhook_id)
        return webhook_deliveries.page(session, webhook_id, after=after, limit=limit)


def replay(context: Context, caller: Caller, webhook_id: str, delivery_id: str) -> Delivery:
    """Make a delivery due now, whatever its outcome was. If it fails again, the usual back-off applies."""
    with context.database.write() as session:
        _require(session, caller, webhook_id)
        delivery = webhook_deliveries.get(session, webhook_id, delivery_id)
        if delivery is None:
            raise NoSuchDelivery(delivery_id)
        delivery.status, delivery.attempts, delivery.due_at, delivery.ended_at = PENDING, 0, db_now(), None
        session.flush()
        session.refresh(delivery)
    return delivery


def _require(session: Session, caller: Caller, webhook_id: str) -> Webhook:
    webhook = webhooks.get(session, caller.project_id, webhook_id)
    if webhook is None:
        raise NoSuchWebhook(webhook_id)
    return webhook


def _lock(session: Session, caller: Caller, webhook_id: str) -> Webhook:
    webhook = webhooks.lock(session, caller.project_id, webhook_id)
    if webhook is None:
        raise NoSuchWebhook(webhook_id)
    return webhook
