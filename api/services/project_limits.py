"""Limits on each project: unfinished jobs, stored files, stored responses, judges' tokens and the rate of requests.

Jobs and stored bytes are summed under the project's lock, so that concurrent requests cannot exceed a limit together.
If a retry cannot succeed, for example until the caller deletes something, the error has `x-should-retry: false`, which
keeps OpenAI's clients from retrying. If waiting is enough, `retry-after` gives the seconds.
"""

import math
import threading
import time
from collections.abc import Iterator

from sqlalchemy.orm import Session

from api.context import Context
from api.errors import DO_NOT_RETRY, TooManyRequests
from api.records import files, idempotency, jobs, projects, uploads
from api.services import budgets

MAX_UPLOADS = 1000
"""Number of uploads in parts that a project may have begun and not completed."""
DAY_S = 24 * 3600
BURST_S = 3
"""A project that was idle may send as many requests at once as its rate allows in this many seconds."""


def require_jobs(context: Context, session: Session, project_id: str, more: int = 1) -> None:
    """Raise TooManyRequests if `more` additional jobs would exceed the project's limit of unfinished jobs or of jobs in
    a day, or if one of its budgets is used up."""
    projects.lock(session, project_id)
    for refusal in job_refusals(context, session, project_id, more):
        raise refusal


def job_refusals(context: Context, session: Session, project_id: str, more: int = 1) -> Iterator[TooManyRequests]:
    """Yield the errors of limits that `more` additional jobs would exceed, and of budgets that are used up."""
    yield from budgets.refusals(session, project_id)
    limit = context.settings.max_active_jobs
    if jobs.active_count(session, project_id) + more > limit:
        yield TooManyRequests(
            f"This server allows a project {limit} unfinished jobs: wait for some to end, or cancel them",
            code="too_many_active_jobs",
            headers=DO_NOT_RETRY,
        )
    daily = context.settings.max_daily_jobs
    if jobs.count_since(session, project_id, DAY_S) + more > daily:
        yield TooManyRequests(
            f"This server allows a project to create {daily:,} jobs in 24 hours: wait, or ask its operator to set a "
            "higher ATTUNE_MAX_DAILY_JOBS",
            code="too_many_daily_jobs",
            headers=DO_NOT_RETRY,
        )


def require_storage(context: Context, session: Session, project_id: str, *, bytes_more: int, param: str) -> None:
    """Raise TooManyRequests if the project may not store one more file, or part of a file, of `bytes_more` bytes."""
    projects.lock(session, project_id)
    settings = context.settings
    count, held = files.stored_totals(session, project_id)
    if count >= settings.max_project_files:
        raise TooManyRequests(
            f"This server allows a project {settings.max_project_files} files: delete files that you no longer need",
            code="too_many_files",
            param=param,
            headers=DO_NOT_RETRY,
        )
    held += uploads.stored_bytes(session, project_id)
    if held + bytes_more > settings.max_project_bytes:
        raise TooManyRequests(
            f"The project's files and uploads have {held} bytes, and this server allows {settings.max_project_bytes}: "
            f"there is no room for {bytes_more} more. Delete files that you no longer need, or cancel uploads",
            code="storage_quota_exceeded",
            param=param,
            headers=DO_NOT_RETRY,
        )
    budgets.require_room(session, project_id, bytes_more)


def require_upload(session: Session, project_id: str) -> None:
    """Raise TooManyRequests if the project has as many uploads in parts as it may. Cancelled ones count until they
    would have expired. The caller has locked the project."""
    if uploads.open_count(session, project_id) >= MAX_UPLOADS:
        raise TooManyRequests(
            f"This project has {MAX_UPLOADS} uploads that are pending or were cancelled within the last hour, the most "
            "that it may have: complete uploads, or wait until some expire",
            code="too_many_uploads",
            headers=DO_NOT_RETRY,
        )


def require_answer(context: Context, session: Session, project_id: str) -> None:
    """Raise TooManyRequests if the project's Idempotency-Keys and the responses stored for them exceed their size
    limit."""
    limit = context.settings.max_project_answer_bytes
    if idempotency.stored_bytes(session, project_id) > limit:
        raise TooManyRequests(
            f"This project's Idempotency-Keys and the responses kept for them have {limit} bytes, the most that this "
            "server allows: send no key, or wait until some expire after a day",
            code="too_many_idempotency_keys",
            headers={"retry-after": "600"},
        )


def require_judge_tokens(context: Context, session: Session, project_id: str) -> None:
    """Raise TooManyRequests if the project's judges have used up this month's tokens. Questions that judges are
    answering already may exceed the limit."""
    budget = budgets.judge_budget(context, session, project_id)
    if budget.used_up:
        raise TooManyRequests(
            f"The judges of this project may use {budget.limit:,} tokens in a month, and this month's are used up: ask "
            "the operator for more, or use a grader without a judge",
            code="judge_tokens_used_up",
            headers=DO_NOT_RETRY,
        )


class RequestRate:
    """A rate limit of requests for each project, or for each sender of another kind: a token bucket in the memory of
    this process."""

    def __init__(self, per_second: float, sender: str = "a project", burst_s: float = BURST_S) -> None:
        self._per_second, self._sender, self._burst_s = per_second, sender, burst_s
        self._burst = max(1.0, per_second * burst_s)
        self._left: dict[str, tuple[float, float]] = {}
        """{sender: (number of requests that it may send at once, time at which the number was computed)}. Full buckets
        are dropped now and then."""
        self._lock = threading.Lock()

    def take(self, sender_id: str, now: float | None = None) -> None:
        """Count a request. Raise TooManyRequests if the sender exceeds its rate."""
        now = time.monotonic() if now is None else now
        with self._lock:
            left, at = self._left.get(sender_id, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_second)
            if left < 1:
                wait_s = (1 - left) / self._per_second
                raise TooManyRequests(
                    f"This server answers {self._rate()} from {self._sender}: retry in {math.ceil(wait_s)} s",
                    headers={"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(1000 * wait_s))},
                )
            self._left[sender_id] = (left - 1, now)
            if len(self._left) > 10_000:
                self._left = {key: bucket for key, bucket in self._left.items() if bucket[1] > now - self._burst_s}

    def _rate(self) -> str:
        if self._per_second < 1:
            return f"{60 * self._per_second:g} requests a minute"
        return f"{self._per_second:g} requests a second"
