"""Deliveries of events to webhooks, with the time of each next attempt.

A delivery's row is written in the transaction that ends the job, batch or run of an eval, so that no event is lost. A
deliverer first moves `due_at` into the future: if it dies, another deliverer takes the delivery at that time.
"""

from collections.abc import Sequence

from sqlalchemy import ForeignKey, Integer, String, Text, case, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.pages import Listing, Page, paginate
from api.records.webhooks import Webhook
from api.spec.ids import new_id

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


class Delivery(Base):
    __tablename__ = "webhook_deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"), index=True)
    event_id: Mapped[str] = mapped_column(String(64))
    """Id of the event, the same in every attempt, so that a receiver can recognize duplicates."""
    event_type: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str] = mapped_column(String(64))
    """Id of the job, batch or run of an eval that ended."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    status: Mapped[str] = mapped_column(String(16))
    """pending, delivered or failed."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    due_at: Mapped[float | None] = mapped_column(UnixTime, index=True)
    """Time of the next attempt; None once the delivery has ended."""
    last_status: Mapped[int | None] = mapped_column(Integer)
    """HTTP status of the receiver's last response."""
    last_error: Mapped[str | None] = mapped_column(Text)
    ended_at: Mapped[float | None] = mapped_column(UnixTime)


LISTING = Listing(Delivery.webhook_id, Delivery.id, (Delivery.created_at, Delivery.id))


def enqueue(session: Session, project_id: str, object_id: str, event_type: str) -> None:
    """Add a delivery of the event for each webhook of the project with this event type.

    The webhooks are locked against removal: a delivery of a removed webhook would violate the foreign key, so that the
    transaction which ends the job would fail.
    """
    event_id = new_id("evt_")
    query = select(Webhook).where(Webhook.project_id == project_id)
    for webhook in session.scalars(query.with_for_update(read=True, key_share=True)):
        if event_type in webhook.event_types:
            session.add(
                Delivery(
                    id=new_id("whd_"),
                    webhook_id=webhook.id,
                    event_id=event_id,
                    event_type=event_type,
                    object_id=object_id,
                    created_at=db_now(),
                    status=PENDING,
                    due_at=db_now(),
                )
            )
    session.flush()


def get(session: Session, webhook_id: str, delivery_id: str) -> Delivery | None:
    query = select(Delivery).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
    return session.scalars(query.with_for_update()).one_or_none()


def page(session: Session, webhook_id: str, *, after: str | None, limit: int) -> Page[Delivery]:
    return paginate(
        session,
        LISTING,
        webhook_id,
        select(Delivery).where(Delivery.webhook_id == webhook_id),
        after=after,
        limit=limit,
    )


def any_due(session: Session) -> bool:
    return session.scalar(select(Delivery.id).where(Delivery.due_at <= db_now()).limit(1)) is not None


def lease_due(session: Session, limit: int, waits_s: Sequence[float]) -> list[tuple[Delivery, Webhook, list[str]]]:
    """Take up to `limit` due deliveries. Return each with its webhook and the secrets to sign it with.

    The projects take turns, so that a project whose endpoints do not answer delays the others little. The caller holds
    a delivery until `due_at`, which moves to the time of the next attempt. `waits_s`: seconds between the first,
    second, … attempt and the next one; the last of them also holds for later attempts.
    """
    turn = func.row_number().over(partition_by=Webhook.project_id, order_by=Delivery.due_at).label("turn")
    due = select(Delivery.id, turn).join(Webhook).where(Delivery.due_at <= db_now()).subquery()
    query = (
        select(Delivery, Webhook, func.coalesce(Webhook.old_secret_until > db_now(), False))
        .join(Webhook)
        .join(due, due.c.id == Delivery.id)
        .where(Delivery.due_at <= db_now())  # again: another deliverer may have taken the row meanwhile
        .order_by(due.c.turn, Delivery.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Delivery)
    )
    taken = [
        (delivery, webhook, [webhook.secret, *([webhook.old_secret] if both and webhook.old_secret else [])])
        for delivery, webhook, both in session.execute(query)
    ]
    for delivery, _, _ in taken:
        delivery.attempts += 1
        delivery.due_at = db_now() + waits_s[min(delivery.attempts, len(waits_s)) - 1]
    session.flush()
    for delivery, _, _ in taken:
        session.refresh(delivery)
    return taken


def record_attempt(
    session: Session, delivery_id: str, *, attempt: int, last: bool, status: int | None, error: str | None
) -> None:
    """Record the result of an attempt, unless a later attempt has begun. `last`: the delivery fails if this attempt
    does. `error` is None after a success."""
    values: dict[str, object] = {"last_status": status, "last_error": error}
    if error is None:
        values |= {"status": DELIVERED, "due_at": None, "ended_at": db_now()}
    elif last:
        values |= {"status": FAILED, "due_at": None, "ended_at": db_now()}
    session.execute(update(Delivery).where(Delivery.id == delivery_id, Delivery.attempts == attempt).values(**values))


def shorten(session: Session, waits_s: Sequence[float]) -> None:
    """Shorten the waits that end later than any can, because the database's clock was set back. `waits_s`: as for
    `lease_due`."""
    waits = dict(enumerate((0.0, *waits_s)))
    latest = db_now() + case(waits, value=Delivery.attempts, else_=float(waits_s[-1]))
    # The first condition lets the database find these few by the index on `due_at`, among all that are kept.
    late = (Delivery.due_at > db_now(), Delivery.due_at > latest)
    session.execute(update(Delivery).where(*late).values(due_at=latest))


def delete_ended(session: Session, keep_s: float, limit: int = 1000) -> None:
    """Delete up to `limit` deliveries that ended more than `keep_s` seconds ago."""
    old = select(Delivery.id).where(Delivery.ended_at <= db_now() - keep_s).limit(limit)
    LISTING.delete(session, Delivery.id.in_(old))


def remove_of(session: Session, webhook: Webhook) -> None:
    """Delete all deliveries of a webhook that is removed."""
    session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
