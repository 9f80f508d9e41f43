"""Idempotency keys: the request that came with a key first, and what it was answered."""

from sqlalchemy import ForeignKey, Integer, LargeBinary, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Base, UnixTime, db_now, insert

KEEP_S = 24 * 3600
"""How long an answer can be had again."""
ROW_BYTES = 512
"""About what a key takes that was never answered: it is kept as long."""


class Answered(Base):
    __tablename__ = "idempotency"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request: Mapped[str] = mapped_column(String(64))
    """SHA-256 over path, query and body; of a form that is not answered yet over the first two."""
    owner: Mapped[str] = mapped_column(String(64))
    """The request that works on it, or did."""
    claimed_until: Mapped[float] = mapped_column(UnixTime)
    """The owner renews it while it works. When it has passed without an answer, the owner is dead."""
    status: Mapped[int | None] = mapped_column(Integer)
    """None until it is answered."""
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    created_at: Mapped[float] = mapped_column(UnixTime, index=True)


def held(session: Session, project_id: str) -> int:
    """Bytes of the project's keys and of the answers that are kept for them."""
    size = func.coalesce(func.sum(ROW_BYTES + func.coalesce(func.length(Answered.body), 0)), 0)
    return int(session.scalar(select(size).where(Answered.project_id == project_id)) or 0)


def begin(session: Session, project_id: str, key: str, *, request: str, owner: str, lease_s: float) -> Answered | None:
    """Claim the key for this request. None: it is ours, and new. Else the row that was there before."""
    session.execute(
        delete(Answered).where(
            Answered.project_id == project_id, Answered.key == key, Answered.created_at <= db_now() - KEEP_S
        )
    )
    statement = insert(session, Answered).values(
        project_id=project_id,
        key=key,
        request=request,
        owner=owner,
        claimed_until=db_now() + lease_s,
        created_at=db_now(),
    )
    made = session.execute(statement.on_conflict_do_nothing().returning(Answered.key)).first()
    return None if made is not None else session.get(Answered, (project_id, key))


def take_over(session: Session, project_id: str, key: str, *, request: str, owner: str, lease_s: float) -> bool:
    """Take the place of an owner that died. False when it lives, has answered, or another was quicker."""
    done = session.execute(
        update(Answered)
        .where(
            Answered.project_id == project_id,
            Answered.key == key,
            Answered.request == request,
            Answered.status.is_(None),
            Answered.claimed_until <= db_now(),
        )
        .values(owner=owner, claimed_until=db_now() + lease_s)
        .returning(Answered.key)
    )
    return done.first() is not None


def renew(session: Session, project_id: str, key: str, owner: str, lease_s: float) -> None:
    _set(session, project_id, key, owner, claimed_until=db_now() + lease_s)


def answer(session: Session, project_id: str, key: str, owner: str, *, request: str, status: int, body: bytes) -> None:
    _set(session, project_id, key, owner, request=request, status=status, body=body)


def give_up(session: Session, project_id: str, key: str, owner: str) -> None:
    """Nothing worth repeating came of it: whoever sends the request again begins at once, as after a death."""
    _set(session, project_id, key, owner, claimed_until=db_now() - 1)


def _set(session: Session, project_id: str, key: str, owner: str, **values: object) -> None:
    session.execute(
        update(Answered)
        .where(Answered.project_id == project_id, Answered.key == key, Answered.owner == owner)
        .values(**values)
    )


def forget(session: Session) -> None:
    session.execute(delete(Answered).where(Answered.created_at <= db_now() - KEEP_S))
