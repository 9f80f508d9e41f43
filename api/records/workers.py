"""Workers that were seen of late, and what they have: by this it is known what a job can ask for."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text, delete, exists, false, func, select, update
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column
from sqlalchemy.sql.elements import ColumnElement

from api.estimate.machine import Machine
from api.records.base import Base, UnixTime, db_now
from api.spec.lifecycle import Stage

SEEN_S = 120


class Worker(Base):
    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(128), primary_key=True)
    gpus: Mapped[int] = mapped_column(Integer)
    train_slots: Mapped[int] = mapped_column(Integer)
    seen_at: Mapped[float] = mapped_column(UnixTime)
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """What each of its jobs may take: a share of the machine's, or of what the worker's control group allows."""
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of its smallest GPU; None without one."""
    bfloat16: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It multiplies in bfloat16 at least as fast as in float32: its GPUs, or the processor where it has none."""
    held: Mapped[str | None] = mapped_column(Text)
    """Why it takes no work at the moment; None while it takes some."""
    observed: Mapped[dict[str, Any] | None]
    """How fast its last jobs were (api.estimate.speed)."""


def seen(session: Session, *, owner: str, gpus: int, train_slots: int, held: str | None = None, **machine: Any) -> None:
    """`machine`: memory_bytes, gpu_memory_bytes, bfloat16. What was observed of it stays."""
    session.merge(Worker(owner=owner, gpus=gpus, train_slots=train_slots, seen_at=db_now(), held=held, **machine))


def forget(session: Session, keep_s: float) -> None:
    """Remove workers that were last seen so long ago: each new work folder is a new worker."""
    session.execute(delete(Worker).where(Worker.seen_at < db_now() - keep_s))


def training(session: Session) -> Sequence[Worker]:
    """The live workers that train."""
    query = select(Worker).where(Worker.seen_at > db_now() - SEEN_S, Worker.train_slots > 0).order_by(Worker.owner)
    return session.scalars(query).all()


def machine(worker: Worker) -> Machine:
    """What a job has there. A worker with GPUs trains on them, whether or not the job needs one."""
    gpu = worker.gpus > 0
    memory = worker.gpu_memory_bytes if gpu else worker.memory_bytes
    return Machine(gpu, worker.bfloat16, memory, worker.observed)


def another(stage: Stage, owner: str, gpus: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Whether a live worker of this stage, not `owner`, has so many GPUs and takes work."""
    here = Worker.train_slots > 0 if stage is Stage.TRAIN else Worker.train_slots == 0
    live = Worker.seen_at > db_now() - SEEN_S
    return exists().where(Worker.owner != owner, live, here, Worker.held.is_(None), Worker.gpus >= gpus)


def observe(session: Session, owner: str, observed: dict[str, Any]) -> None:
    session.execute(update(Worker).where(Worker.owner == owner).values(observed=observed))


def observed(session: Session, owner: str) -> dict[str, Any]:
    return session.scalar(select(Worker.observed).where(Worker.owner == owner)) or {}


def gpus_anywhere(session: Session) -> int:
    """The most GPUs that one live worker has."""
    return session.scalar(select(func.max(Worker.gpus)).where(Worker.seen_at > db_now() - SEEN_S)) or 0
