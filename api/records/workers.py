"""Workers that were seen of late, and what they have: by this it is known what a job can ask for."""

from sqlalchemy import Integer, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records.base import Epoch, Row, db_now

SEEN_S = 120


class Worker(Row):
    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(128), primary_key=True)
    gpus: Mapped[int] = mapped_column(Integer)
    train_slots: Mapped[int] = mapped_column(Integer)
    seen_at: Mapped[float] = mapped_column(Epoch)


def seen(session: Session, *, owner: str, gpus: int, train_slots: int) -> None:
    session.merge(Worker(owner=owner, gpus=gpus, train_slots=train_slots, seen_at=db_now()))


def gpus_anywhere(session: Session) -> int:
    """The most GPUs that one live worker has."""
    return session.scalar(select(func.max(Worker.gpus)).where(Worker.seen_at > db_now() - SEEN_S)) or 0
