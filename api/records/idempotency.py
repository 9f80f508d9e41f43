"""Idempotency keys: the first request with each key, and its response."""

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, String, delete, func, select, text, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert

KEEP_S = 24 * 3600
"""Seconds for which a key and its response are kept."""
ROW_BYTES = 512
"""Approximate size of a row without a response, in bytes."""
_OPEN = text("status IS NULL")


class IdempotentRequest(Base):
    __tablename__ = "idempotency"
    # Few requests are without a response, and workers look for them every few seconds.
    __table_args__ = (Index("ix_idempotency_open", "claimed_until", sqlite_where=_OPEN, postgresql_where=_OPEN),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request: Mapped[str] = mapped_column(String(64))
    """SHA-256 over path, query and body. For a form, the body is included only once the response is stored."""
    owner: Mapped[str] = mapped_column(String(64))
    """Id of the request that claimed the key."""
    claimed_until: Mapped[float] = mapped_column(UnixTime)
    """End of the claim. The owner renews the claim while it works. If the claim ends without a response, the owner
    counts as dead."""
    status: Mapped[int | None] = mapped_column(Integer)
    """HTTP status of the response; None until the response is stored."""
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[float] = mapped_column(UnixTime, index=True)


def stored_bytes(session: Session, project_id: str) -> int:
    """Return the bytes of the project's keys and of their stored responses."""
    size = func.coalesce(func.sum(ROW_BYTES + func.coalesce(func.length(IdempotentRequest.body), 0)), 0)
    return int(session.scalar(select(size).where(IdempotentRequest.project_id == project_id)) or 0)


def claim(
    session: Session, project_id: str, key: str, *, request: str, owner: str, lease_s: float
) -> IdempotentRequest | None:
    """Claim the key for this request. Return None if the claim succeeded, else the existing row."""
    session.execute(
        delete(IdempotentRequest).where(
            IdempotentRequest.project_id == project_id,
            IdempotentRequest.key == key,
            IdempotentRequest.created_at <= db_now() - KEEP_S,
        )
    )
    statement = insert(session, IdempotentRequest).values(
        project_id=project_id,
        key=key,
        request=request,
        owner=owner,
        claimed_until=db_now() + lease_s,
        created_at=db_now(),
    )
    created = session.execute(statement.on_conflict_do_nothing().returning(IdempotentRequest.key)).first()
    return None if created is not None else session.get(IdempotentRequest, (project_id, key))


def take_over(session: Session, project_id: str, key: str, *, request: str, owner: str, lease_s: float) -> bool:
    """Give the claim of a dead owner to a new owner with the same request.

    Return False if the old owner is alive or has responded, or if another owner was faster.
    """
    updated = session.execute(
        update(IdempotentRequest)
        .where(
            IdempotentRequest.project_id == project_id,
            IdempotentRequest.key == key,
            IdempotentRequest.request == request,
            IdempotentRequest.status.is_(None),
            IdempotentRequest.claimed_until <= db_now(),
        )
        .values(owner=owner, claimed_until=db_now() + lease_s)
        .returning(IdempotentRequest.key)
    )
    return updated.first() is not None


def renew(session: Session, project_id: str, key: str, owner: str, lease_s: float) -> None:
    _set(session, project_id, key, owner, claimed_until=db_now() + lease_s)


def store_response(
    session: Session, project_id: str, key: str, owner: str, *, request: str, status: int, body: bytes
) -> None:
    _set(session, project_id, key, owner, request=request, status=status, body=body)


def release(session: Session, project_id: str, key: str, owner: str) -> None:
    """End the claim without storing a response. The next request with this key need not wait."""
    _set(session, project_id, key, owner, claimed_until=db_now() - 1)


def _set(session: Session, project_id: str, key: str, owner: str, **values: object) -> None:
    session.execute(
        update(IdempotentRequest)
        .where(
            IdempotentRequest.project_id == project_id, IdempotentRequest.key == key, IdempotentRequest.owner == owner
        )
        .values(**values)
    )


def delete_expired(session: Session) -> None:
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.created_at <= db_now() - KEEP_S))
