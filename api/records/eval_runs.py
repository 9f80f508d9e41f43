"""Runs of evals. The items of a run are in api.records.eval_items.

A worker takes a run at its `due_at` (api.records.item_queue): to read its rows, or to remove a deleted run.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import ForeignKey, Integer, String, Text, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import evals, webhook_deliveries
from api.records.base import Base, current_time, db_now
from api.records.evals import Eval
from api.records.item_queue import Work
from api.records.pages import Listing, Page, paginate
from api.spec.evals.status import EVENTS, TRANSITIONS, UNFINISHED, RunStatus
from api.spec.fields import JsonObject
from api.spec.ids import new_id

Pairs = dict[str, str] | None
"""The metadata of a run."""
RECENT = 10
"""Number of newest runs among which `newest_like` searches."""

OLD = 50
"""Number of old runs that one transaction deletes, at most."""


class EvalRun(Work, Base):
    __tablename__ = "eval_runs"

    eval_id: Mapped[str] = mapped_column(ForeignKey("evals.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    pairs: Mapped[dict[str, str] | None] = mapped_column("metadata")
    data_source: Mapped[JsonObject]
    """An api.spec.evals.run_source.RunSource, as the request gave it."""
    input_file: Mapped[str | None] = mapped_column(String(64), index=True)
    """The file with the rows; None if the request contained the rows."""
    model: Mapped[str | None] = mapped_column(String(256))
    """The model that answers the rows; None if the rows are graded as they are, without a model's answers."""
    error: Mapped[JsonObject | None]
    """{"code", "message"} of a failed run, and {"code", "message", "since"} of one that waits for a judge since that
    time."""
    total: Mapped[int] = mapped_column(Integer, default=0)
    """Number of items of the run; 0 before its rows are read."""
    passed: Mapped[int] = mapped_column(Integer, default=0)
    failed: Mapped[int] = mapped_column(Integer, default=0)
    errored: Mapped[int] = mapped_column(Integer, default=0)
    criteria_counts: Mapped[JsonObject]
    """{criterion: {"passed", "failed", "errored"}}."""
    usage: Mapped[JsonObject]
    """{model: {"invocation_count", "prompt_tokens", "completion_tokens"}}."""

    @property
    def waits_since(self) -> float | None:
        """Time since which a run in progress waits for a judge, while no judge has answered."""
        return (self.error or {}).get("since")


class Outcome(NamedTuple):
    status: str
    passed: int
    total: int


LISTING = Listing(EvalRun.eval_id, EvalRun.id, (EvalRun.created_at, EvalRun.id))


def get(session: Session, project_id: str, eval_id: str, run_id: str) -> EvalRun | None:
    named = (EvalRun.id == run_id, EvalRun.eval_id == eval_id, EvalRun.project_id == project_id)
    return session.scalars(select(EvalRun).where(*named, EvalRun.status != RunStatus.DELETING)).one_or_none()


def outcomes(session: Session, run_ids: Sequence[str]) -> dict[str, Outcome]:
    """Return {run: its status and counts}, without the runs that are deleted."""
    query = select(EvalRun.id, EvalRun.status, EvalRun.passed, EvalRun.total)
    found = session.execute(query.where(EvalRun.id.in_(run_ids), EvalRun.status != RunStatus.DELETING))
    return {run_id: Outcome(status, passed, total) for run_id, status, passed, total in found}


def add(session: Session, row: Eval, key_id: str, source: JsonObject, *, name: str, pairs: Pairs) -> EvalRun:
    """Insert a run of the eval. A worker reads its rows next."""
    run = EvalRun(
        id=new_id("evalrun_"),
        eval_id=row.id,
        project_id=row.project_id,
        key_id=key_id,
        name=name,
        pairs=pairs,
        data_source=source,
        input_file=source["source"].get("id"),
        model=source.get("model"),
        status=RunStatus.QUEUED,
        criteria_counts={each["name"]: {"passed": 0, "failed": 0, "errored": 0} for each in row.criteria},
        usage={},
        created_at=db_now(),
        due_at=db_now(),
    )
    session.add(run)
    session.flush()
    session.refresh(run)
    return run


def page(
    session: Session, eval_id: str, *, status: RunStatus | None, after: str | None, limit: int, newest_first: bool
) -> Page[EvalRun]:
    query = select(EvalRun).where(EvalRun.eval_id == eval_id, EvalRun.status != RunStatus.DELETING)
    if status is not None:
        query = query.where(EvalRun.status == status)
    return paginate(session, LISTING, eval_id, query, after=after, limit=limit, newest_first=newest_first)


def active(session: Session, project_id: str) -> int:
    """Return the number of the project's unfinished runs."""
    query = select(func.count()).select_from(EvalRun)
    return session.scalar(query.where(EvalRun.project_id == project_id, EvalRun.status.in_(UNFINISHED))) or 0


def count(session: Session, project_id: str) -> int:
    """Return the number of the project's runs that are not deleted."""
    query = select(func.count()).select_from(EvalRun)
    return session.scalar(query.where(EvalRun.project_id == project_id, EvalRun.status != RunStatus.DELETING)) or 0


def items(session: Session, project_id: str) -> int:
    """Return the number of items of all the project's runs."""
    query = select(func.coalesce(func.sum(EvalRun.total), 0)).where(EvalRun.project_id == project_id)
    return int(session.scalar(query) or 0)


def newest_like(
    session: Session, eval_id: str, key_id: str, source: JsonObject, *, name: str, pairs: Pairs, within_s: float
) -> EvalRun | None:
    """Return the eval's newest run of the last `within_s` seconds that an equal request created."""
    recent = select(EvalRun).where(EvalRun.eval_id == eval_id, EvalRun.status != RunStatus.DELETING)
    recent = recent.where(EvalRun.created_at > db_now() - within_s).order_by(EvalRun.created_at.desc()).limit(RECENT)
    wanted = (key_id, source, name, pairs)
    found = session.scalars(recent)
    return next((run for run in found if (run.key_id, run.data_source, run.name, run.pairs) == wanted), None)


def using_file(session: Session, project_id: str, file_id: str) -> Sequence[str]:
    """Return the ids of runs whose rows are still to be read from this file."""
    named = (EvalRun.project_id == project_id, EvalRun.input_file == file_id)
    return session.scalars(select(EvalRun.id).where(*named, EvalRun.status == RunStatus.QUEUED)).all()


def delete_of_eval(session: Session, eval_id: str) -> None:
    """Mark the eval's runs as deleted, without loading their rows. A worker removes them with their items."""
    kept = (EvalRun.eval_id == eval_id, EvalRun.status != RunStatus.DELETING)
    deleting = {"status": RunStatus.DELETING, "fence": EvalRun.fence + 1, "due_at": current_time(session)}
    session.execute(update(EvalRun).where(*kept).values(deleting))


def any_of_eval(session: Session, eval_id: str) -> bool:
    return session.scalar(select(EvalRun.id).where(EvalRun.eval_id == eval_id).limit(1)) is not None


def transition(session: Session, run: EvalRun, to: RunStatus, *, error: JsonObject | None = None) -> None:
    """Change the status of a locked run. If this ends the run, queue its webhooks in the same transaction.

    A worker that holds the run loses it.
    """
    assert to in TRANSITIONS[RunStatus(run.status)], f"{run.id}: {run.status} to {to}"
    session.flush()
    due_at = current_time(session) if to == RunStatus.DELETING else None
    changed = update(EvalRun).where(EvalRun.id == run.id)
    session.execute(changed.values(status=to, error=error, fence=EvalRun.fence + 1, due_at=due_at))
    if event := EVENTS.get(to):
        webhook_deliveries.enqueue(session, run.project_id, run.id, event)
    session.refresh(run)


def delete_old(session: Session, keep_s: float) -> None:
    """Mark up to OLD ended runs that were created more than `keep_s` seconds ago as deleted. A worker removes them."""
    old = select(EvalRun).where(EvalRun.created_at <= db_now() - keep_s)
    old = old.where(EvalRun.status.not_in((*UNFINISHED, RunStatus.DELETING))).order_by(EvalRun.id).limit(OLD)
    for run in session.scalars(old.with_for_update(skip_locked=True)):
        transition(session, run, RunStatus.DELETING)


def remove(session: Session, run: EvalRun) -> None:
    """Delete the run. If a user has deleted the eval and this was its last run, delete the eval's row, too."""
    LISTING.delete(session, EvalRun.id == run.id)
    of_run = session.get_one(Eval, run.eval_id, with_for_update=True)
    if of_run.deleted_at is not None and not any_of_eval(session, run.eval_id):
        evals.remove(session, run.eval_id)
