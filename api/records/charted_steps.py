"""The steps that charts of a job show: all steps of a short job, and at most 2 * KEPT of a long one.

They are thinned while the job trains (`api.spec.thinning`), so a chart of a million steps is read as fast as one of a
thousand.
"""

from array import array
from collections.abc import Sequence

from sqlalchemy import BigInteger, ForeignKey, Integer, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import events
from api.records.base import Base, insert
from api.spec.fields import JsonObject
from api.spec.thinning import Columns

KEPT = 1024
"""Number of steps to which a job's charted steps are thinned, once in so many steps."""
AT_ONCE = 32 * KEPT
"""Number of steps that are thinned at once. A job that older releases trained may have a million, too many for one
transaction (10 s): its first steps are thinned then, and further ones the next time."""


class ChartedStep(Base):
    __tablename__ = "charted_steps"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(Integer, primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    """The sequence number of the event with the step's metrics."""


def add(session: Session, job_id: str, message: str, metrics: JsonObject) -> None:
    """Add the event with the metrics of one step, and chart the step."""
    step = metrics["step"]
    seq = events.add_event(session, job_id, message, type="metrics", data=metrics)
    charted = insert(session, ChartedStep).values(job_id=job_id, step=step, seq=seq)
    keys = [ChartedStep.job_id, ChartedStep.step]
    session.execute(charted.on_conflict_do_update(index_elements=keys, set_={"seq": seq}))
    if step % KEPT == 0:
        thin(session, job_id, AT_ONCE)


def of(session: Session, job_id: str) -> tuple[Sequence[int], int]:
    """Return the sequence numbers of the charted steps' events, sorted by step, and the number of all steps."""
    query = select(ChartedStep.step, ChartedStep.seq).where(ChartedStep.job_id == job_id).order_by(ChartedStep.step)
    rows = session.execute(query).all()
    # The first and the last step are always charted, and none between them was left out.
    return array("q", (seq for _, seq in rows)), rows[-1].step - rows[0].step + 1 if rows else 0


def choose(session: Session, numbers: Sequence[int], limit: int, *, again: bool = False) -> Sequence[int]:
    """Return at most `limit` (two or more) of the numbers, those of the steps that show the course of the metrics.

    `again`: whether to choose from the result again (`Columns.chosen`)."""
    if len(numbers) <= limit:
        return numbers
    columns = Columns()
    for batch in events.batches_of(numbers):
        columns.extend(events.metrics_at(session, batch))
    return [numbers[index] for index in columns.chosen(limit, again=again)]


def thin(session: Session, job_id: str, first: int | None = None) -> None:
    """Leave at most KEPT steps of the job charted, or KEPT of its `first` charted ones."""
    query = select(ChartedStep.seq).where(ChartedStep.job_id == job_id).order_by(ChartedStep.step)
    numbers = session.scalars(query.limit(first)).all()
    dropped = sorted(set(numbers) - set(choose(session, numbers, KEPT, again=True)))
    for batch in events.batches_of(dropped):
        session.execute(delete(ChartedStep).where(ChartedStep.job_id == job_id, ChartedStep.seq.in_(batch)))


def delete_of(session: Session, job_ids: Sequence[str]) -> None:
    session.execute(delete(ChartedStep).where(ChartedStep.job_id.in_(job_ids)))
