"""The context of all services, built once for each process: settings, database, storage and limits."""

from dataclasses import dataclass
from typing import Self

from api.infra.doorbell import Doorbell
from api.infra.fair_limiter import FairLimiter
from api.infra.preview_process import PreviewProcesses
from api.infra.storage import Storage
from api.records import Database
from api.settings import Settings

REQUEST_THREADS = 36
"""Threads for requests, of anyio's 40. Four are left for short calls from coroutines."""


@dataclass(frozen=True)
class Context:
    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell
    previews: PreviewProcesses
    requests: FairLimiter
    """Limit of the threads that handle requests."""

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
        )


@dataclass(frozen=True)
class Caller:
    """The authenticated project, and the scope of its key."""

    project_id: str
    key_id: str
    scope: str

    @property
    def may_write(self) -> bool:
        return self.scope in ("admin", "write")
