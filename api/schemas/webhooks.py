"""Webhook endpoints as OpenAI's objects, and Attune's log of deliveries."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel

from api.records.webhook_deliveries import Delivery
from api.records.webhooks import Webhook
from api.schemas.common import ends, seconds


class WebhookObject(BaseModel):
    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        return cls(**_webhook(webhook))


class WebhookWithSecret(WebhookObject):
    signing_secret: str
    """The secret for `OpenAI(webhook_secret=…).webhooks.unwrap(…)`, shown only once."""

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        return cls(**_webhook(webhook), signing_secret=webhook.secret)


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


def _webhook(webhook: Webhook) -> dict[str, object]:
    return {
        "id": webhook.id,
        "created_at": int(webhook.created_at),
        "updated_at": int(webhook.updated_at),
        "name": webhook.name,
        "url": webhook.url,
        "event_types": webhook.event_types,
        "signing_secret_hint": f"whsec_…{webhook.secret[-4:]}",
    }


class WebhookTestObject(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    """The HTTP status of the endpoint's response."""
    success: Literal[True] = True
    """Always true: the endpoint responded."""


class WebhookList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WebhookObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Webhook], has_more: bool) -> Self:
        return cls(data=[WebhookObject.of(row) for row in rows], has_more=has_more, **ends(rows))


class DeliveryObject(BaseModel):
    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    created_at: int
    event_id: str
    event_type: str
    data: dict[str, str]
    """`id` is the id of the object that the event is about, such as a job."""
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_attempt_at: int | None
    ended_at: int | None
    last_status: int | None
    """The HTTP status of the last response; null without a response."""
    last_error: str | None

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        return cls(
            id=delivery.id,
            created_at=int(delivery.created_at),
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            data={"id": delivery.object_id},
            status=delivery.status,
            attempts=delivery.attempts,
            next_attempt_at=seconds(delivery.due_at),
            ended_at=seconds(delivery.ended_at),
            last_status=delivery.last_status,
            last_error=delivery.last_error,
        )


class DeliveryList(BaseModel):
    object: Literal["list"] = "list"
    data: list[DeliveryObject]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Sequence[Delivery], has_more: bool) -> Self:
        return cls(data=[DeliveryObject.of(row) for row in rows], has_more=has_more, **ends(rows))
