"""The context of all services, built once for each process: settings, database, storage and limits."""

from dataclasses import dataclass, field
from typing import Any, Self

from api.infra.doorbell import Doorbell
from api.infra.fair_limiter import FairLimiter
from api.infra.latest import Latest
from api.infra.outside_judges import OutsideJudges
from api.infra.preview_process import PreviewProcesses
from api.infra.storage import Storage
from api.records import Database
from api.settings import Settings

REQUEST_THREADS = 36
"""Number of anyio's 40 threads that requests may use. Four are left for short calls from coroutines."""

BODIES = 512
"""Maximum number of JSON bodies of which a process has received a part and waits for the rest. Each body has at most
`max_body_bytes`."""

PROJECT_BODIES = 64
"""Maximum number of incomplete bodies of one project. Further requests whose body does not arrive at once get a 429."""

UPLOADS = 24
"""Maximum number of uploads (of a file or a part) and joins of parts that a process works on at the same time. Each
takes up to 30 MiB of memory."""

PROJECT_UPLOADS = 8
"""Maximum number of concurrent uploads and joins of one project. A further upload waits for its turn before its first
byte is read."""

JUDGEMENTS_WAITING = 1000
"""Number of judgements of one project that may wait for their turn. Jobs and runs of evals never reach it: they limit
themselves to fewer."""

QUEUE_BOARD_S = 1.0
"""Seconds for which one reading of the queue (api.services.waiting) serves all requests."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell
    previews: PreviewProcesses
    requests: FairLimiter
    """Limit of the threads that handle requests."""
    bodies: FairLimiter
    """Limit of the JSON bodies that have arrived in part."""
    uploads: FairLimiter
    """Limit of the files and parts of uploads that are received or joined at the same time."""
    outside_judges: OutsideJudges
    judgements: FairLimiter
    """Limit of the judgements that are awaited at the same time."""
    away_judges: set[str] = field(default_factory=set)
    """Models that could not be reached in all attempts at a question, and have answered no question since. Each further
    question to them is attempted only once, so that a dead judge does not hold up a job for hours."""
    queue_board: Latest[Any] = field(default_factory=lambda: Latest(QUEUE_BOARD_S))
    """The latest reading of the queue, an api.services.waiting.Board."""

    @classmethod
    def open(cls, settings: Settings) -> Self:
        return cls(
            settings,
            Database(settings.database),
            Storage(settings.storage),
            Doorbell(settings.broker_url),
            PreviewProcesses(settings),
            FairLimiter(
                "requests",
                total=REQUEST_THREADS,
                per_project=min(settings.requests_at_once, REQUEST_THREADS),
                max_waiting=settings.requests_waiting,
            ),
            FairLimiter("incomplete bodies of requests", total=BODIES, per_project=PROJECT_BODIES, max_waiting=0),
            FairLimiter(
                "uploads",
                total=UPLOADS,
                per_project=PROJECT_UPLOADS,
                max_waiting=settings.requests_waiting,
            ),
            OutsideJudges(settings),
            FairLimiter(
                "judgements",
                total=settings.judge_requests,
                per_project=settings.judge_requests,
                max_waiting=JUDGEMENTS_WAITING,
            ),
        )


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its project, and the id and scope of its API key."""

    project_id: str
    key_id: str
    scope: str

    @property
    def may_write(self) -> bool:
        return self.scope in ("admin", "write")
