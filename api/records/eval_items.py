"""Items of runs of evals. An item is one row of the run, with its answer and the grades of the answer."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ForeignKey, Index, String, Text, insert, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from api.records import eval_runs
from api.records.base import Base, UnixTime, current_time
from api.records.eval_runs import EvalRun
from api.records.item_queue import Item, ItemClaim, WorkQueue
from api.records.pages import Listing, Page, UnknownCursor, paginate
from api.spec.evals.status import ItemStatus, RunStatus
from api.spec.fields import JsonObject


class EvalItem(Item, Base):
    __tablename__ = "eval_items"
    __table_args__ = (Index("ix_eval_items_due", "run_id", "due_at", "line"),)

    work_id: Mapped[str] = mapped_column("run_id", ForeignKey("eval_runs.id"), primary_key=True, sort_order=-2)
    row: Mapped[str] = mapped_column(Text)
    """An api.spec.evals.run_source.EvalRow as JSON."""
    status: Mapped[str | None] = mapped_column(String(16))
    """An api.spec.evals.status.ItemStatus; None while the item has no result."""
    result: Mapped[JsonObject | None]
    """The fields "results" and "sample" of the output item that the API returns. While the item waits for a judge,
    {"answer", "since"}, each only if there is one: the model's answer, so that it is sampled only once, and the time
    since which a judge fails at this item or takes too long."""
    finished_at: Mapped[float | None] = mapped_column(UnixTime)

    @property
    def id(self) -> str:
        """The public id, which contains the run's id and the item's number."""
        return f"{_prefix(self.work_id)}{self.line}"


class _ByLine(Listing):
    """The items of a run, sorted by number. An item's id contains its number, so `position` reads no row."""

    def position(self, session: Session, owner: str, row_id: str) -> tuple[int]:
        line = _line(owner, row_id)
        if line is None:
            raise UnknownCursor(row_id)
        return (line,)


LISTING = _ByLine(EvalItem.work_id, EvalItem.work_id, (EvalItem.line,))
EvalItemClaim = ItemClaim[EvalRun, EvalItem]
QUEUE = WorkQueue("evaluate", "whole_eval_run", EvalRun, EvalItem, RunStatus.IN_PROGRESS)
AFTER_OTHERS = 1.05
"""Multiple of the other items' wait after which an item that found a judge away is due."""


@dataclass(frozen=True)
class Use:
    """One call of a model, with its tokens."""

    model: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Graded:
    """The result of an item."""

    status: ItemStatus
    outcomes: dict[str, str]
    """{name of a criterion: passed, failed or errored}."""
    result: JsonObject
    uses: tuple[Use, ...] = ()
    judges_answered: bool = False
    """Whether judges were asked, and none was away."""


def _prefix(run_id: str) -> str:
    return f"outputitem_{run_id.removeprefix('evalrun_')}_"


def add(session: Session, run_id: str, rows: Iterable[tuple[int, str]]) -> None:
    """Add items. Workers may take them once the run is in progress. `rows`: each row's number, from 1, and its JSON."""
    values = [
        {"work_id": run_id, "line": line, "row": row, "due_at": 0.0, "fence": 0, "faults": 0} for line, row in rows
    ]
    session.execute(insert(EvalItem), values)


def finish(session: Session, claim: EvalItemClaim, graded: Graded) -> bool:
    """Store the item's result and add it to the run's counts. The last result completes the run.

    Return False if the claim is lost or the run is no longer in progress.
    """
    values = {"status": graded.status, "result": graded.result, "finished_at": current_time(session)}
    run = QUEUE.lock_for_result(session, claim, **values)
    if run is None:
        return False
    if graded.judges_answered:
        run.error = None  # the run waits no longer
    run.passed += graded.status == ItemStatus.PASSED
    run.failed += graded.status == ItemStatus.FAILED
    run.errored += graded.status == ItemStatus.ERRORED
    counts = {name: dict(count) for name, count in run.criteria_counts.items()}
    for name, outcome in graded.outcomes.items():
        counts[name][outcome] += 1
    usage = {model: dict(used) for model, used in run.usage.items()}
    for use in graded.uses:
        used = usage.setdefault(use.model, {"invocation_count": 0, "prompt_tokens": 0, "completion_tokens": 0})
        used["invocation_count"] += 1
        used["prompt_tokens"] += use.prompt_tokens
        used["completion_tokens"] += use.completion_tokens
    run.criteria_counts, run.usage = counts, usage
    session.flush()
    if run.passed + run.failed + run.errored == run.total:
        run.error = run.error if run.errored else None  # all judgements were found among the stored ones
        eval_runs.transition(session, run, RunStatus.COMPLETED)
    return True


def wait_for_judge(session: Session, claim: EvalItemClaim, wait_s: float, reason: str, kept: JsonObject) -> None:
    """Give up the claim, and let all items of the run wait, because each of them needs the same judges. This item is
    due after the others: if its judge answers those, this item is the cause.

    The run's `error` has the reason and the beginning of the wait. `kept`: what the next attempt uses. Raise StaleWork
    if the run was deleted.
    """
    run = QUEUE.lock(session, claim.work.id)
    QUEUE.release(session, claim, wait_s * AFTER_OTHERS, result=kept)
    QUEUE.postpone(session, run.id, wait_s)
    if run.status == RunStatus.IN_PROGRESS:
        since = run.waits_since or current_time(session)
        run.error = {"code": "judge_unavailable", "message": f"The run waits for a judge: {reason}", "since": since}


def get(session: Session, run_id: str, item_id: str) -> EvalItem | None:
    """Return the finished item with this public id."""
    line = _line(run_id, item_id)
    query = select(EvalItem).where(EvalItem.work_id == run_id, EvalItem.line == line, EvalItem.status.is_not(None))
    return None if line is None else session.scalars(query).one_or_none()


def _line(run_id: str, item_id: str) -> int | None:
    number = item_id.removeprefix(_prefix(run_id))
    return int(number) if item_id != number and number.isdecimal() and len(number) <= 9 else None


def page(
    session: Session, run_id: str, *, status: ItemStatus | None, after: str | None, limit: int, newest_first: bool
) -> Page[EvalItem]:
    """Return a page of the run's finished items, by number.

    Raise UnknownCursor if `after` is not the id of an item of this run.
    """
    query = select(EvalItem).where(EvalItem.work_id == run_id)
    query = query.where(EvalItem.status.is_not(None) if status is None else EvalItem.status == status)
    return paginate(session, LISTING, run_id, query, after=after, limit=limit, newest_first=newest_first)
