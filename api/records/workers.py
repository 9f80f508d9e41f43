"""Workers and their hardware, which limits the jobs that can be accepted."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Text, and_, delete, exists, false, select, update
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, aliased, mapped_column
from sqlalchemy.sql.elements import ColumnElement

from api.estimate.machine_fields import Machine
from api.estimate.stored import Observations
from api.records.base import Base, UnixTime, db_now
from api.spec.lifecycle import Stage

SEEN_S = 120
"""A worker counts as live for this many seconds after its last sweep (worker.supervisor.lost_jobs)."""
KNOWN_S = 24 * 3600
"""A job may wait for a worker that was seen in the last KNOWN_S seconds, even if the worker has stopped."""


class Worker(Base):
    __tablename__ = "workers"

    owner: Mapped[str] = mapped_column(String(128), primary_key=True)
    """Identifies the worker: host:name:id (worker.supervisor.node)."""
    stage: Mapped[str] = mapped_column(String(16))
    slots: Mapped[int] = mapped_column(Integer)
    """Number of jobs that the worker works on at once."""
    gpus: Mapped[int] = mapped_column(Integer)
    device: Mapped[str | None] = mapped_column(String(128))
    """Model of the first GPU, or of the processor if the worker has no GPU."""
    version: Mapped[str | None] = mapped_column(String(32))
    started_at: Mapped[float | None] = mapped_column(UnixTime)
    seen_at: Mapped[float] = mapped_column(UnixTime)
    """Time of the last sweep."""
    clock_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time of the last sweep by the worker's own clock. The difference to `seen_at` is that of the clocks."""
    stopped_at: Mapped[float | None] = mapped_column(UnixTime)
    """Time at which the worker shut down cleanly; None while it runs, and after a crash."""
    scanning: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the worker was scanning an uploaded file at its last sweep."""
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory for each of the worker's jobs: an equal part of the machine's memory, or of the limit of the worker's
    control group."""
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Memory of the smallest GPU; None if the worker has no GPU."""
    bfloat16: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether the GPUs, or the processor if there are none, multiply in bfloat16 at least as fast as in float32."""
    held: Mapped[str | None] = mapped_column(Text)
    """Reason why the worker takes no work at the moment; None if it takes work."""
    observed: Mapped[Observations | None]
    """Measured speed of the worker's last jobs (api.estimate.speed)."""

    @property
    def host(self) -> str:
        return self.owner.partition(":")[0]

    @property
    def clock_ahead_s(self) -> float | None:
        """Seconds by which the worker's clock is ahead of the database's; None for a worker of an older release."""
        return None if self.clock_at is None else self.clock_at - self.seen_at


def register(session: Session, *, owner: str, stage: Stage, slots: int = 1, gpus: int = 0, **facts: object) -> None:
    """Insert or update the worker, which is live from now on. `facts` are values of other columns; columns that are
    left out keep their values."""
    values: dict[str, Any] = {"seen_at": db_now(), "clock_at": time.time(), "stopped_at": None, **facts}
    session.merge(Worker(owner=owner, stage=stage, slots=slots, gpus=gpus, **values))


def record_stop(session: Session, owner: str) -> None:
    """Record that the worker shut down cleanly, so that it no longer counts as live."""
    session.execute(update(Worker).where(Worker.owner == owner).values(stopped_at=db_now()))


def live() -> ColumnElement[bool]:
    return and_(Worker.seen_at > db_now() - SEEN_S, Worker.stopped_at.is_(None))


def seen(session: Session, within_s: float) -> Sequence[tuple[Worker, bool]]:
    """Return the workers that swept in the last `within_s` seconds, each with whether it is live."""
    query = select(Worker, live()).where(Worker.seen_at > db_now() - within_s).order_by(Worker.owner)
    return [(worker, bool(alive)) for worker, alive in session.execute(query)]


def delete_unseen(session: Session, keep_s: float) -> None:
    """Delete workers last seen more than `keep_s` seconds ago. Rows would pile up otherwise, because a worker with a
    new work folder gets a new row."""
    session.execute(delete(Worker).where(Worker.seen_at < db_now() - keep_s))


def training(session: Session) -> Sequence[Worker]:
    """Return the live workers that train."""
    query = select(Worker).where(live(), Worker.stage == Stage.TRAIN).order_by(Worker.owner)
    return session.scalars(query).all()


def training_lately(session: Session) -> Sequence[Worker]:
    """Return the workers that train and were seen in the last KNOWN_S seconds, even if they are restarting."""
    query = select(Worker).where(Worker.seen_at > db_now() - KNOWN_S, Worker.stage == Stage.TRAIN)
    return session.scalars(query.order_by(Worker.owner)).all()


def machine(worker: Worker) -> Machine:
    """Return the hardware that one job of this worker gets. A worker with GPUs trains on its GPUs even if the job needs
    none."""
    gpu = worker.gpus > 0
    memory = worker.gpu_memory_bytes if gpu else worker.memory_bytes
    return Machine(gpu, worker.bfloat16, memory, worker.observed)


def another_available(stage: Stage, owner: str, gpus: InstrumentedAttribute[int]) -> ColumnElement[bool]:
    """Return the condition that a live worker other than `owner` has at least this number of GPUs and takes work."""
    return exists().where(
        Worker.owner != owner, live(), Worker.stage == stage, Worker.held.is_(None), Worker.gpus >= gpus
    )


def set_observations(session: Session, owner: str, observed: Observations) -> None:
    session.execute(update(Worker).where(Worker.owner == owner).values(observed=observed))


def inherit_observations(session: Session, owner: str) -> None:
    """Give a worker with a GPU that has measured nothing the observations of the worker with the same GPU that was seen
    last.

    A worker with a new work folder, such as a new container, would otherwise predict from guesses. Processors of one
    model are too different for this: a container may have two of its cores or all of them.
    """
    other = aliased(Worker)
    same = select(other.observed).where(
        other.device == Worker.device, other.gpus > 0, other.stage == Worker.stage, other.observed.is_not(None)
    )
    newest = same.order_by(other.seen_at.desc()).limit(1).correlate(Worker).scalar_subquery()
    new = update(Worker).where(Worker.owner == owner, Worker.gpus > 0, Worker.observed.is_(None))
    session.execute(new.values(observed=newest))


def observations(session: Session, owner: str) -> Observations | None:
    return session.scalar(select(Worker.observed).where(Worker.owner == owner))
