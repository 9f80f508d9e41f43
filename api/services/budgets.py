"""Budgets that the operator sets for a project: trained tokens, device seconds and judges' tokens of a month, and
stored bytes.

Once a budget is used up, new jobs are refused. Once the budget of stored bytes is used up, new files are refused, too.
Jobs that were accepted before run to their end. A used-up budget of judges' tokens only keeps judges from being asked.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from api.context import Context
from api.errors import DO_NOT_RETRY, NotFound, TooManyRequests
from api.records import job_queue, projects, stored_bytes, usage
from api.records.base import current_time
from api.records.projects import Project


class InsufficientQuota(TooManyRequests):
    """A budget is used up. A retry fails until the budget resets, so a header keeps OpenAI's clients from retrying."""

    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=DO_NOT_RETRY)


@dataclass(frozen=True)
class Budget:
    name: str
    """trained_tokens, device_seconds, stored_bytes or judge_tokens."""
    used: int
    limit: int | None
    resets_at: int | None
    """Unix time at which the budget resets; None for stored bytes, which only deletions reduce."""

    @property
    def used_up(self) -> bool:
        return self.limit is not None and self.used >= self.limit


def budgets_of(session: Session, project_id: str) -> list[Budget]:
    """Return the project's budgets with this month's usage, including that of running attempts so far."""
    project = session.get_one(Project, project_id)
    month, next_month = month_of(current_time(session))
    tokens, device_s = usage.used_since(session, project_id, month)
    running_tokens, running_s = job_queue.unfinished_usage(session, project_id)
    return [
        Budget("trained_tokens", tokens + running_tokens, project.monthly_trained_tokens, next_month),
        Budget("device_seconds", int(device_s + running_s), project.monthly_device_seconds, next_month),
        Budget("stored_bytes", stored_bytes.of_project(session, project_id), project.max_stored_bytes, None),
    ]


def judge_budget(context: Context, session: Session, project_id: str) -> Budget:
    """Return the project's budget of judges' tokens: its own, or the one of every project. Jobs do not depend on it."""
    month, next_month = month_of(current_time(session))
    own, of_all = session.get_one(Project, project_id).monthly_judge_tokens, context.settings.max_project_judge_tokens
    limit = own if own is not None else of_all or None
    return Budget("judge_tokens", usage.judge_tokens_since(session, project_id, month), limit, next_month)


def refusals(session: Session, project_id: str) -> list[InsufficientQuota]:
    """Return an error for each budget of the project that is used up. For a project without budgets, this takes one
    query."""
    if not session.get_one(Project, project_id).has_budget:
        return []
    return [InsufficientQuota(_message(budget)) for budget in budgets_of(session, project_id) if budget.used_up]


def require_room(session: Session, project_id: str, bytes_more: int) -> None:
    """Raise InsufficientQuota if another `bytes_more` bytes would exceed the project's budget of stored bytes."""
    limit = session.get_one(Project, project_id).max_stored_bytes
    if limit is None:
        return
    used = stored_bytes.of_project(session, project_id)
    if used + bytes_more > limit:
        raise InsufficientQuota(_message(Budget("stored_bytes", used, limit, None)))


def _message(budget: Budget) -> str:
    what = budget.name.replace("_", " ")
    if budget.resets_at is None:
        return (
            f"The project has {budget.used:,} {what} and may have {budget.limit:,}: delete files or models that you no "
            "longer need, or ask the operator for a larger budget"
        )
    reset = datetime.fromtimestamp(budget.resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"The project has used {budget.used:,} {what} this month and may use {budget.limit:,}: wait until {reset}, "
        "when the budget resets, or ask the operator for a larger one"
    )


def month_of(now: float) -> tuple[int, int]:
    """Return the Unix times at which this month and the next one begin (UTC)."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
    return int(month.timestamp()), int(following.timestamp())


UNCHANGED = -1


def set_budget(
    context: Context,
    project: str,
    *,
    trained_tokens: int | None = UNCHANGED,
    device_seconds: int | None = UNCHANGED,
    stored_bytes: int | None = UNCHANGED,
    judge_tokens: int | None = UNCHANGED,
) -> None:
    """Set the project's limits. None removes a limit; for judges' tokens, that of every project then holds again.

    Raise NoSuchProject.
    """
    values = {
        "monthly_trained_tokens": trained_tokens,
        "monthly_device_seconds": device_seconds,
        "max_stored_bytes": stored_bytes,
        "monthly_judge_tokens": judge_tokens,
    }
    with context.database.write() as session:
        row = projects.find(session, project)
        if row is None:
            raise NoSuchProject(project)
        for name, value in values.items():
            if value != UNCHANGED:
                setattr(row, name, value)


def listed(context: Context) -> list[tuple[Project, list[Budget]]]:
    """Return all projects with their budgets."""
    with context.database.read() as session:
        return [
            (project, [*budgets_of(session, project.id), judge_budget(context, session, project.id)])
            for project in projects.listed(session)
        ]


class NoSuchProject(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no project '{name[:64]}': `attune projects list` lists the projects")
