from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from api.http.deps import After, Ctx, Repeated, Who
from api.http.fair_route import FairRoute
from api.schemas.common import Deleted
from api.schemas.webhooks import (
    DeliveryList,
    DeliveryObject,
    EventTypeList,
    WebhookList,
    WebhookObject,
    WebhookTestObject,
    WebhookWithSecret,
)
from api.services import webhooks
from api.spec.fields import NulFreeModel, StrictModel

router = APIRouter(tags=["webhooks"], route_class=FairRoute)
types = APIRouter(tags=["webhooks"], route_class=FairRoute)

Limit = Annotated[int, Query(ge=1, le=100)]
EventType = Literal[
    "batch.cancelled",
    "batch.completed",
    "batch.expired",
    "batch.failed",
    "eval.run.canceled",
    "eval.run.failed",
    "eval.run.succeeded",
    "fine_tuning.job.cancelled",
    "fine_tuning.job.failed",
    "fine_tuning.job.succeeded",
]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=10)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]


class Endpoint(NulFreeModel):
    event_types: EventTypes
    name: Name
    url: Url


class Change(NulFreeModel):
    event_types: EventTypes | None = None
    name: Name | None = None
    url: Url | None = None


class Rotation(StrictModel):
    keep_old_secret_active_for_24_hours: bool = False


class Sample(StrictModel):
    event_type: EventType


@router.post("")
def create_webhook(endpoint: Endpoint, context: Ctx, caller: Who, repeated: Repeated) -> WebhookWithSecret:
    """Create an endpoint that is notified when this project's jobs, batches and runs of evals end.

    It receives signed POSTs, and needs a public https address.

    The response has the signing secret, which is not shown again. A delivery is retried for about 18 hours until the
    endpoint responds with a 2xx. Redirects are not followed.
    """
    return WebhookWithSecret.of(
        webhooks.create(
            context,
            caller,
            name=endpoint.name,
            url=endpoint.url,
            event_types=endpoint.event_types,
            repeated=repeated,
        )
    )


@router.get("")
def list_webhooks(context: Ctx, caller: Who, after: After = None, limit: Limit = 20) -> WebhookList:
    """List endpoints, newest first."""
    page = webhooks.page(context, caller, after=after, limit=limit)
    return WebhookList.of(page.data, page.has_more)


@router.get("/{webhook_id}")
def retrieve_webhook(webhook_id: str, context: Ctx, caller: Who) -> WebhookObject:
    return WebhookObject.of(webhooks.get(context, caller, webhook_id))


@router.post("/{webhook_id}")
def update_webhook(webhook_id: str, change: Change, context: Ctx, caller: Who) -> WebhookObject:
    """Change the given fields of an endpoint."""
    return WebhookObject.of(
        webhooks.update(context, caller, webhook_id, name=change.name, url=change.url, event_types=change.event_types)
    )


@router.delete("/{webhook_id}")
def delete_webhook(webhook_id: str, context: Ctx, caller: Who) -> Deleted:
    """Delete an endpoint with its delivery log. Pending deliveries are dropped."""
    webhooks.delete(context, caller, webhook_id)
    return Deleted(id=webhook_id, object="webhook_endpoint.deleted")


@router.post("/{webhook_id}/rotate_secret")
def rotate_webhook_secret(
    webhook_id: str, context: Ctx, caller: Who, rotation: Rotation | None = None
) -> WebhookWithSecret:
    """Create a new signing secret, shown once. If the old one is kept, deliveries have both signatures for a day."""
    keep_old = rotation is not None and rotation.keep_old_secret_active_for_24_hours
    return WebhookWithSecret.of(webhooks.rotate_secret(context, caller, webhook_id, keep_old=keep_old))


@router.post("/{webhook_id}/test")
async def test_webhook(webhook_id: str, sample: Sample, context: Ctx, caller: Who) -> WebhookTestObject:
    """Send a sample event now, and return the status of the endpoint's response."""
    webhook = await run_in_threadpool(webhooks.get, context, caller, webhook_id)
    status = await webhooks.test(context, webhook, sample.event_type)
    return WebhookTestObject(event_type=sample.event_type, status_code=status, webhook_endpoint_id=webhook_id)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(webhook_id: str, context: Ctx, caller: Who, after: After = None, limit: Limit = 20) -> DeliveryList:
    """List the deliveries to an endpoint, newest first. They are kept for 30 days."""
    page = webhooks.delivery_page(context, caller, webhook_id, after=after, limit=limit)
    return DeliveryList.of(page.data, page.has_more)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay")
def replay_delivery(webhook_id: str, delivery_id: str, context: Ctx, caller: Who) -> DeliveryObject:
    """Deliver an event again, under the same event id."""
    return DeliveryObject.of(webhooks.replay(context, caller, webhook_id, delivery_id))


@types.get("/webhook_event_types")
def list_event_types(caller: Who) -> EventTypeList:
    """List the types of events that an endpoint can be notified of."""
    return EventTypeList(data=list(get_args(EventType)))
