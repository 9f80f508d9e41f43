"""The checks of the service that the API runs itself: those of `attune doctor` that need no shell.

A component that hangs holds one thread and delays nobody: each check runs at most once at a time and is waited for
for LIMIT_S. All callers share the checks that run and the results of the last CACHE_S.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import anyio
import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.context import Caller, Context
from api.services import diagnosis, service_checks
from api.services.diagnosis import Check

log = structlog.get_logger(__name__)

CACHE_S = 10.0
LIMIT_S = 5.0
REMEDY = "Run `attune doctor` on the server's machine, and see the server's log."


@dataclass
class Part:
    """One check, or several of the same component."""

    component: str
    run: Callable[[], Iterable[Check]]
    shared: bool = False
    """Whether every key may see it. The others show addresses of machines and work of all projects: they are the
    operator's."""
    task: asyncio.Task[list[Check]] | None = field(default=None, init=False)


class Checkup:
    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._parts = [
            Part("database", lambda: diagnosis.check_database(settings)),
            Part("storage", lambda: _check_storage(context)),
            Part("stored bytes", lambda: [service_checks.check_stored(context)]),
            Part("broker", lambda: [diagnosis.check_broker(settings)]),
            Part("queue", lambda: [service_checks.check_queue(context)]),
            Part("disk", lambda: [diagnosis.check_disk(settings)]),
            Part("workers", lambda: service_checks.check_workers(context), shared=True),
            Part("base models", lambda: [service_checks.check_base_models(context)], shared=True),
        ]
        self._threads = anyio.CapacityLimiter(len(self._parts))
        self._reading: asyncio.Task[None] | None = None
        self._read_at: float | None = None
        self._results: list[list[Check]] = []

    async def checks(self, caller: Caller) -> list[Check]:
        """Return the checks that the caller may see."""
        if self._read_at is None or time.monotonic() - self._read_at >= CACHE_S:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.shield(self._reading)
        shown = zip(self._parts, self._results, strict=True)
        return [check for part, checks in shown if part.shared or caller.is_operator for check in checks]

    async def _read(self) -> None:
        self._results = await asyncio.gather(*map(self._result, self._parts))
        self._read_at = time.monotonic()

    async def _result(self, part: Part) -> list[Check]:
        if part.task is None or part.task.done():
            part.task = asyncio.create_task(anyio.to_thread.run_sync(_run, part, limiter=self._threads))
        try:
            async with asyncio.timeout(LIMIT_S):
                return await asyncio.shield(part.task)
        except TimeoutError:
            return [Check(part.component, "problem", f"no answer within {LIMIT_S:.0f} s", REMEDY)]


def _check_storage(context: Context) -> Iterator[Check]:
    check = diagnosis.check_storage(context.settings)
    yield check
    if check.status == "ok":
        yield from diagnosis.check_marker(context)


def _run(part: Part) -> list[Check]:
    try:
        return list(part.run())
    except SQLAlchemyError:
        return [Check(part.component, "problem", "unknown, because the database does not answer", REMEDY)]
    except Exception as error:  # a check that fails is a finding, and must not hide the others
        log.exception("check_failed", component=part.component)
        return [Check(part.component, "problem", f"cannot be checked ({type(error).__name__})", REMEDY)]
