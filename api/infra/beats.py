"""Beats: regular reports by which the processes that take no jobs (samplers, workers of batches and evals, deliverers)
show that they live.

The processes report to Redis, because a sampler has no access to the database, and because only people read the
reports. Workers of jobs report to the database (api.records.workers), where the queue depends on the reports. If Redis
loses its data, each process is listed again within BEAT_S. Times are by Redis's clock.

    attune:processes    hash: owner → the time of its last report, a space, and the report
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import structlog
from pydantic import BaseModel, SecretStr
from redis import Redis, RedisError

log = structlog.get_logger(__name__)

BEAT_S = 5.0
"""Seconds between two reports."""
ALIVE_S = 3 * BEAT_S
"""Seconds after its last report from which a process counts as lost."""
KEPT_S = 24 * 3600
"""Seconds for which a process is listed after its last report."""
TIMEOUT_S = 1.0

_KEY = "attune:processes"
_REPORT = """
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], time[1] .. string.format('.%06d ', time[2]) .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
"""


class ProcessReport(BaseModel):
    owner: str
    """Unique name of the process, as host:name:id."""
    stage: str
    slots: int
    """Maximum number of requests or deliveries that the process works on at once."""
    answering: int | None
    """Number of requests or deliveries that the process works on now; None if it does not count them."""
    device: str | None = None
    gpus: int = 0
    gpu_memory_bytes: int | None = None
    memory_bytes: int | None = None
    version: str = version("attune")
    started_at: float | None = None
    """Unix time at which the process started. `reporting` sets it."""
    clock_at: float | None = None
    """Unix time of the report by the process's own clock. `reporting` sets it."""
    stopped: bool = False
    """Whether the process has shut down in order."""


class SeenProcess(ProcessReport):
    """A process, as its last report describes it."""

    beat_at: float
    """Unix time of its last report."""
    age_s: float
    """Seconds since its last report."""

    @property
    def place(self) -> tuple[str, str]:
        """The host and the stage of the process."""
        return self.owner.partition(":")[0], self.stage

    @property
    def clock_ahead_s(self) -> float | None:
        return None if self.clock_at is None else self.clock_at - self.beat_at

    @property
    def alive(self) -> bool:
        return not self.stopped and self.age_s <= ALIVE_S


def process_name(stage: str, identifier: str) -> str:
    """Return the `owner` of a process without a work folder."""
    return f"{socket.gethostname()[:64]}:{stage}:{identifier}"


@contextmanager
def reporting(broker_url: SecretStr, report: Callable[[], ProcessReport]) -> Iterator[None]:
    """Report this process every BEAT_S seconds until the block ends. Then report that it has shut down."""
    ended, started_at = threading.Event(), time.time()

    def send(redis: Redis, **changes: object) -> None:
        known = report().model_copy(update={"started_at": started_at, "clock_at": time.time(), **changes})
        redis.eval(_REPORT, 1, _KEY, known.owner, known.model_dump_json(), KEPT_S)

    def repeat() -> None:
        with _connected(broker_url) as redis:
            while not ended.is_set():
                try:
                    send(redis)
                except Exception as error:  # if this thread ended, a healthy process would look lost
                    log.warning("beat_failed", error=type(error).__name__)
                ended.wait(BEAT_S)

    thread = threading.Thread(target=repeat, name="beats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * TIMEOUT_S)
        with suppress(RedisError), _connected(broker_url) as redis:
            send(redis, stopped=True)


def seen(broker_url: SecretStr) -> list[SeenProcess]:
    """Return the processes of the last day; none if Redis does not answer.

    A process that ended or stopped reporting is left out if a live process of the same stage runs on its host, because
    that may be the same process, restarted.
    """
    if not broker_url.get_secret_value():
        return []
    try:
        with _connected(broker_url) as redis:
            now, reports = redis.time(), dict[str, Any](redis.hgetall(_KEY))
            found = [_parse(report, now[0] + now[1] / 1e6) for report in reports.values()]
            if old := [process.owner for process in found if process.age_s > KEPT_S]:
                redis.hdel(_KEY, *old)
    except RedisError as error:
        log.warning("beats_not_read", error=type(error).__name__)
        return []
    live = {process.place for process in found if process.alive}
    kept = [each for each in found if each.alive or (each.age_s <= KEPT_S and each.place not in live)]
    return sorted(kept, key=lambda process: (process.stage, process.owner))


def _parse(stored: str, now: float) -> SeenProcess:
    at, _, report = stored.partition(" ")
    known = ProcessReport.model_validate_json(report).model_dump()
    return SeenProcess(**known, beat_at=float(at), age_s=max(0.0, now - float(at)))


def _connected(broker_url: SecretStr) -> Redis:
    return Redis.from_url(
        broker_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
    )
