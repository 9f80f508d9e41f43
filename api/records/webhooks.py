"""Webhooks: the addresses to which a project's events are sent."""

from sqlalchemy import ForeignKey, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now
from api.records.pages import Listing, Page, paginate


class Webhook(Base):
    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(128))
    url: Mapped[str] = mapped_column(Text)
    event_types: Mapped[list[str]]
    secret: Mapped[str] = mapped_column(String(64))
    """`whsec_…`. Stored in plain text, because every delivery is signed with it."""
    old_secret: Mapped[str | None] = mapped_column(String(64))
    old_secret_until: Mapped[float | None] = mapped_column(UnixTime)
    """Time until which deliveries are also signed with the previous secret."""
    created_at: Mapped[float] = mapped_column(UnixTime)
    updated_at: Mapped[float] = mapped_column(UnixTime)


LISTING = Listing(Webhook.project_id, Webhook.id, (Webhook.created_at, Webhook.id))


def get(session: Session, project_id: str, webhook_id: str) -> Webhook | None:
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    return session.scalars(query).one_or_none()


def lock(session: Session, project_id: str, webhook_id: str) -> Webhook | None:
    """Return the webhook, locked against new deliveries and other changes until this transaction ends."""
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.project_id == project_id)
    return session.scalars(query.with_for_update()).one_or_none()


def count(session: Session, project_id: str) -> int:
    return session.scalar(select(func.count()).select_from(Webhook).where(Webhook.project_id == project_id)) or 0


def page(session: Session, project_id: str, *, after: str | None, limit: int) -> Page[Webhook]:
    return paginate(
        session,
        LISTING,
        project_id,
        select(Webhook).where(Webhook.project_id == project_id),
        after=after,
        limit=limit,
    )


def newest_like(session: Session, webhook: Webhook, within_s: float) -> Webhook | None:
    """Return the project's newest endpoint of the last `within_s` seconds that an equal request created."""
    same = [getattr(Webhook, name) == getattr(webhook, name) for name in ("project_id", "name", "url")]
    recent = select(Webhook).where(*same, Webhook.created_at > db_now() - within_s).order_by(Webhook.created_at.desc())
    return next((each for each in session.scalars(recent) if each.event_types == webhook.event_types), None)


def remove(session: Session, webhook: Webhook) -> None:
    LISTING.delete(session, Webhook.id == webhook.id)
