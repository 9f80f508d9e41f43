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
from api.spec.evals.criteria import MAX_CRITERIA

REQUEST_THREADS = 36
"""Number of anyio's 40 threads that requests may use. Four are left for short calls from coroutines."""

BODIES = 512
"""Number of JSON bodies of which a process receives the rest at the same time. Each has at most `max_body_bytes`."""

PROJECT_BODIES = 64
"""Maximum number of incomplete bodies of one project. The rest of a further body is read when it has a turn."""

UPLOADS = 32
"""Number of uploads (of a file or a part) and joins of parts that a process works on at the same time. Each takes up to
20 MiB of memory."""

PROJECT_UPLOADS = 16
"""Maximum number of concurrent uploads and joins of one project. A further upload waits for its turn before its first
byte is read."""

RECEIVING_TURN_S = 30.0
"""Seconds for which a body or an upload waits for its turn. It is half of the time for which `attune` waits for the
response to a small upload that it has sent."""

JUDGEMENTS_WAITING = 1000
"""Number of judgements of one project that may wait for their turn, unless a worker's items of evals may have more.
Jobs and runs of evals never reach it."""

GRADINGS = 256
"""Number of `graders/run` that an API process works on at the same time. Each holds a body of up to `max_body_bytes`
while its judges answer, which may take minutes. Up to PROJECT_GRADINGS more of a project hold one while they wait."""

PROJECT_GRADINGS = 16
"""Maximum number of one project's `graders/run` at the same time. The same number may wait."""

WEBHOOK_TESTS = 16
"""Number of tests of webhooks that an API process sends at the same time. Each may take 15 s."""

PROJECT_WEBHOOK_TESTS = 4
"""Maximum number of one project's tests at the same time. The same number may wait."""

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
    """Limit of the JSON bodies that have arrived in part and of which the rest is received."""
    uploads: FairLimiter
    """Limit of the files and parts of uploads that are received or joined at the same time."""
    gradings: FairLimiter
    """Limit of the `graders/run` at the same time."""
    webhook_tests: FairLimiter
    """Limit of the tests of webhooks that are sent at the same time."""
    outside_judges: OutsideJudges
    judgements: FairLimiter
    """Limit of the judgements that are awaited at the same time."""
    away_judges: set[str] = field(default_factory=set)
    """Models that could not be reached in all attempts at a question, and have answered no question since. Each further
    question to them is attempted only once, so that a dead judge does not hold up a job for hours."""
    judges_answered: dict[str, float] = field(default_factory=dict)
    """{model: time of its latest answer to a grader's question}."""
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
            _receiving("incomplete bodies", BODIES, PROJECT_BODIES, settings),
            _receiving("uploads", UPLOADS, PROJECT_UPLOADS, settings),
            _limit("gradings", GRADINGS, PROJECT_GRADINGS),
            _limit("tests of webhooks", WEBHOOK_TESTS, PROJECT_WEBHOOK_TESTS),
            OutsideJudges(settings),
            FairLimiter(
                "judgements",
                total=settings.judge_requests,
                per_project=settings.judge_requests,
                max_waiting=max(JUDGEMENTS_WAITING, settings.eval_items * MAX_CRITERIA),
            ),
        )


def _limit(what: str, total: int, per_project: int) -> FairLimiter:
    return FairLimiter(what, total=total, per_project=per_project, max_waiting=per_project)


def _receiving(what: str, total: int, per_project: int, settings: Settings) -> FairLimiter:
    """Return a limit of what is received from clients, which may be slow."""
    return FairLimiter(
        what,
        total=total,
        per_project=per_project,
        max_waiting=settings.requests_waiting,
        wait_s=RECEIVING_TURN_S,
        first_at_once=True,
    )


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its project, and the id and scope of its API key."""

    project_id: str
    key_id: str
    scope: str

    @property
    def may_write(self) -> bool:
        return self.scope != "read"

    @property
    def is_admin(self) -> bool:
        return self.scope in ("admin", "operator")

    @property
    def is_operator(self) -> bool:
        """Whether the caller may see the health and the usage of the whole service."""
        return self.scope == "operator"
