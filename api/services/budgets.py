"""What one project may hold and ask of this server: every such limit, in one place.

Sums are taken under the project's lock, so that of several requests at once only one gets the last place. A limit that
only the caller can lift, by deleting something, answers with `x-should-retry: false`, which keeps OpenAI's clients from
retrying. A limit that time lifts says when, in `retry-after`.
"""

import math
import threading
import time

from sqlalchemy.orm import Session

from api.context import Context
from api.errors import TooManyRequests
from api.records import files, idempotency, jobs, projects, uploads

NOT_AGAIN = {"x-should-retry": "false"}
BURST_S = 3
"""A project that was silent may ask for so many seconds' worth of requests at once."""


def require_jobs(context: Context, session: Session, project_id: str, more: int = 1) -> None:
    """Raise TooManyRequests unless the project may have so many more unfinished jobs."""
    projects.lock(session, project_id)
    limit = context.settings.max_active_jobs
    if jobs.active_count(session, project_id) + more > limit:
        raise TooManyRequests(
            f"This server allows a project {limit} jobs that have not ended: wait for some to end, or cancel them",
            code="too_many_active_jobs",
            headers=NOT_AGAIN,
        )


def require_storage(context: Context, session: Session, project_id: str, *, bytes_more: int, param: str) -> None:
    """Raise TooManyRequests unless the project may store one more file, or part of one, of this size."""
    projects.lock(session, project_id)
    settings = context.settings
    count, held = files.held(session, project_id)
    if count >= settings.max_project_files:
        raise TooManyRequests(
            f"This server allows a project {settings.max_project_files} files: delete those that you need no more",
            code="too_many_files",
            param=param,
            headers=NOT_AGAIN,
        )
    held += uploads.held(session, project_id)
    if held + bytes_more > settings.max_project_bytes:
        raise TooManyRequests(
            f"The project's files and uploads have {held} bytes, and this server allows {settings.max_project_bytes}: "
            f"there is no room for {bytes_more} more. Delete files that you need no more, or cancel uploads",
            code="storage_quota_exceeded",
            param=param,
            headers=NOT_AGAIN,
        )


def require_answer(context: Context, session: Session, project_id: str) -> None:
    """Raise TooManyRequests unless the project's Idempotency-Keys, with the newest, may have their answers kept."""
    limit = context.settings.max_project_answer_bytes
    if idempotency.held(session, project_id) > limit:
        raise TooManyRequests(
            f"This project's Idempotency-Keys and the answers kept for them have {limit} bytes, the most that this "
            "server allows: send no key, or wait until some are a day old",
            code="too_many_idempotency_keys",
            headers={"retry-after": "600"},
        )


class RequestRate:
    """A bucket of requests for each project, in the memory of this process."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._burst = per_second, max(1.0, per_second * BURST_S)
        self._left: dict[str, tuple[float, float]] = {}
        """Requests left, and when that was true. A full bucket is forgotten."""
        self._lock = threading.Lock()

    def take(self, project_id: str, now: float | None = None) -> None:
        """Raise TooManyRequests if the project has asked too often."""
        now = time.monotonic() if now is None else now
        with self._lock:
            left, at = self._left.get(project_id, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_second)
            if left < 1:
                wait_s = (1 - left) / self._per_second
                raise TooManyRequests(
                    f"This server answers {self._per_second:g} requests a second of a project: ask again in "
                    f"{math.ceil(wait_s)} s",
                    headers={"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(1000 * wait_s))},
                )
            self._left[project_id] = (left - 1, now)
            if len(self._left) > 10_000:
                self._left = {each: kept for each, kept in self._left.items() if kept[1] > now - BURST_S}
