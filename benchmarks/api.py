"""Requests per second and latency of the API on kept-alive connections, beside those of an empty endpoint.

`python -m benchmarks.api` measures small and large tables on SQLite and PostgreSQL. The endpoints take turns in every
round, so that other load slows all of them. The empty endpoint is `/healthz`: no key, no database, no log line.
"""

import argparse
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy import insert, inspect, select, text

from api.context import Context
from api.records import charted_steps
from api.records.charted_steps import ChartedStep
from api.records.events import Event
from api.records.jobs import Job
from api.records.migrate import migrate
from api.services import keys
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from tests.factories import a_job
from tests.services import Postgres
from tests.services.parts import AttuneApi

T = TypeVar("T")

SIZES = {"small": (100, 100, 1_000), "large": (100_000, 100_000, 1_000_000)}
"""Jobs, steps of the measured job, and events of all jobs."""
CONNECTIONS = 8
"""Kept-alive connections whose requests compete for the server, for the rate."""
EMPTY = "empty"


@dataclass
class Subject:
    """A running API, its key and its paths."""

    server: AttuneApi
    key: str
    paths: dict[str, str]
    stream: str

    def request(self, path: str) -> bytes:
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n\r\n"
        return head.encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--streams", type=int, default=1000, help="idle event streams; 0: none")
    options = parser.parse_args()
    for database in options.databases:
        for size in options.sizes:
            print(f"\n{database}, {size}: {SIZES[size][0]:,} jobs, {SIZES[size][2]:,} events", flush=True)
            with _subject(database, size) as subject:
                _compare(subject, list(subject.paths), options.rounds, options.seconds)
                if options.streams and size == "small":
                    _hold_streams(subject, options.streams, options.rounds, options.seconds)


def _compare(subject: Subject, names: Sequence[str], rounds: int, seconds: float) -> None:
    measured: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
    sizes = {}
    for _ in range(rounds + 1):
        for name in names:
            one, sizes[name] = _measure(subject, name, 1, seconds)
            before_s = _cpu_s(subject)
            many, _ = _measure(subject, name, CONNECTIONS, seconds)
            cpu_s = (_cpu_s(subject) - before_s) / (len(many) + CONNECTIONS)
            one.sort()
            rate = CONNECTIONS / statistics.mean(many)
            measured[name].append((one[len(one) // 2], one[len(one) // 10], rate, cpu_s))
    # The first round warms up.
    medians = {name: [statistics.median(column) for column in zip(*measured[name][1:], strict=True)] for name in names}
    empty_s, _, empty_rate, _ = medians[EMPTY]
    print("| endpoint | bytes | median ms | x empty | fastest 10% ms | per second | of empty | CPU ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (median_s, fast_s, rate, cpu_s) in medians.items():
        latency = f"{1000 * median_s:.2f} | {median_s / empty_s:.1f} | {1000 * fast_s:.2f}"
        print(f"| {name} | {sizes[name]:,} | {latency} | {rate:.0f} | {rate / empty_rate:.0%} | {1000 * cpu_s:.2f} |")


def _cpu_s(subject: Subject) -> float:
    """Return the processor seconds that the API has used."""
    used = psutil.Process(subject.server.pid).cpu_times()
    return float(used.user + used.system)


def _hold_streams(subject: Subject, count: int, rounds: int, seconds: float) -> None:
    process = psutil.Process(subject.server.pid)
    before = process.memory_info().rss
    with ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(_connect(subject))
            connection.sendall(subject.request(subject.stream))
            head = connection.recv(65536)
            assert head.startswith(b"HTTP/1.1 200 "), head
        time.sleep(2)
        each = (process.memory_info().rss - before) / count
        print(f"\n{count} idle streams: {each / 1024:.0f} KiB each, {process.cpu_percent(10):.0f}% of a core\n")
        _compare(subject, (EMPTY, "job"), rounds, seconds)


def _measure(subject: Subject, name: str, connections: int, seconds: float) -> tuple[list[float], int]:
    """Return the seconds of each request in this time, and the size of a response's body.

    Each connection's last request is not counted.
    """
    request, size = subject.request(subject.paths[name]), 0
    times: list[float] = []
    with ExitStack() as opened, selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = opened.enter_context(_connect(subject))
            selector.register(connection, selectors.EVENT_READ, _Pending(connection))
            connection.sendall(request)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not times:
            for key, _ in selector.select(1):
                pending: _Pending = key.data
                body = pending.receive()
                if body is not None:
                    size = body
                    times.append(time.perf_counter() - pending.sent_at)
                    pending.sent_at, pending.received = time.perf_counter(), b""
                    pending.connection.sendall(request)
        for key in selector.get_map().values():  # the next measurement begins on an idle server
            while key.data.receive() is None:
                pass
    return times, size


@dataclass
class _Pending:
    """A request whose response is on its way."""

    connection: socket.socket
    sent_at: float = field(default_factory=time.perf_counter)
    received: bytes = b""

    def receive(self) -> int | None:
        """Return the size of the response's body once it is complete."""
        self.received += self.connection.recv(2**20)
        head, separator, body = self.received.partition(b"\r\n\r\n")
        if not separator:
            return None
        assert head.startswith(b"HTTP/1.1 200 "), self.received[:500]
        if b"transfer-encoding: chunked" in head.lower():
            return len(body) if body.endswith(b"\r\n0\r\n\r\n") else None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return length if len(body) == length else None


def _connect(subject: Subject) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", subject.server.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@contextmanager
def _subject(database: str, size: str) -> Iterator[Subject]:
    with tempfile.TemporaryDirectory(prefix="attune-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        url = ""
        if database == "postgresql":
            postgres = Postgres(Path(folder) / "postgres")
            postgres.folder.mkdir()
            Path(folder).chmod(0o755)
            stack.callback(postgres.stop)
            postgres.start()
            url = postgres.url()
        settings = Settings(
            data_dir=Path(folder) / "data",
            database_url=url,
            requests_per_second=1e6,
            max_streams=3000,
            max_project_streams=3000,
            max_connections=4096,
        )
        context = Context.open(settings)
        migrate(context.database)
        key, plain = keys.create(context, project="default", name="benchmark", scope="read")
        job_id, deep_job, deep_event = _fill(context, key.project_id, *SIZES[size])
        server = AttuneApi(Path(folder), settings)
        stack.callback(server.stop)
        server.start()
        stack.callback(context.database.dispose)
        jobs = "/v1/fine_tuning/jobs"
        yield Subject(
            server,
            plain,
            {
                EMPTY: "/healthz",
                "job": f"{jobs}/{job_id}",
                "jobs": jobs,
                "jobs, middle": f"{jobs}?after={deep_job}",
                "events": f"{jobs}/{job_id}/events",
                "events, middle": f"{jobs}/{job_id}/events?after={deep_event}",
                "metrics": f"{jobs}/{job_id}/metrics?max_points=100",
            },
            f"{jobs}/{a_job(context.database, key.project_id, JobStatus.RUNNING)}/events?stream=true",
        )


def _fill(context: Context, project_id: str, jobs: int, steps: int, events: int) -> tuple[str, str, str]:
    """Insert finished jobs and their events. Return a job with an event for each step, the middle job and event."""
    measured = _finished_job(context, project_id, steps)
    with context.database.read() as session:
        row = session.get_one(Job, measured)
        values = {column.key: getattr(row, column.key) for column in inspect(Job).columns}
    others = [f"ftjob-{number}" for number in range(jobs - 1)]
    for jobs_chunk in batched(enumerate(others)):
        rows = [values | {"id": job_id, "created_at": row.created_at - 1 - number} for number, job_id in jobs_chunk]
        with context.database.write() as session:
            session.execute(insert(Job), rows)
    counts = {measured: steps} | dict.fromkeys(others, (events - steps) // len(others))
    for chunk in batched((job_id, step) for job_id, count in counts.items() for step in range(count)):
        with context.database.write() as session:
            session.execute(insert(Event), [_event(job_id, step, steps) for job_id, step in chunk])
    with context.database.write() as session:
        step = Event.data["step"].as_integer()
        charted = select(Event.job_id, step, Event.seq).where(Event.job_id == measured, step.is_not(None))
        session.execute(insert(ChartedStep).from_select(["job_id", "step", "seq"], charted))
        charted_steps.thin(session, measured)
    if not context.database.is_sqlite:
        with context.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    return measured, others[len(others) // 2], _event(measured, steps // 2, steps)["id"]


def batched(rows: Iterable[T], count: int = 10_000) -> Iterator[list[T]]:
    rows = iter(rows)
    while chunk := list(islice(rows, count)):
        yield chunk


def _event(job_id: str, step: int, steps: int) -> dict[str, Any]:
    loss = 3.0 / (1 + step) ** 0.5
    data = {"step": step, "total_steps": steps, "train_loss": loss, "learning_rate": 1e-4, "grad_norm": loss / 2}
    return {
        "id": f"ftevent-{job_id}-{step}",
        "job_id": job_id,
        "created_at": 1.8e9 + step,
        "level": "info",
        "message": f"Step {step}/{steps}: training loss={loss:.4f}",
        "type": "metrics",
        "data": data | {"epoch": 1.0, "supervised_tokens": 960, "step_s": 0.5, "tokens_per_second": 1920.0},
    }


def _finished_job(context: Context, project_id: str, steps: int) -> str:
    recipe = Recipe(model="tiny", training_file="file-none", metadata={"team": "benchmark"})
    resolved = resolve(recipe, job_id="ftjob-a", seed=0, max_length=512, train_rows=1000, validation_rows=100)
    sample = {
        "prompt": "What does shutil.copystat do?",
        "reference": "Copy a stat.",
        "base": "It copies.",
        "tuned": "Copy",
    }
    predicted = {"precision": "bfloat16", "gradient_checkpointing": False, "micro_batch_tokens": 2048, "fits": True}
    times = {"training_s": 100.0, "seconds": 120.0}
    return a_job(
        context.database,
        project_id,
        JobStatus.SUCCEEDED,
        recipe=recipe.model_dump(mode="json"),
        resolved=resolved.model_dump(mode="json"),
        fine_tuned_model="ft:tiny:attune::a",
        result_files=["file-result"],
        trained_tokens=100_000,
        progress={"step": steps, "total_steps": steps, "phase": "done"},
        estimate={"rows": {}, "predicted": predicted | times, "actual": times | {"peak_bytes": 2**30}},
        evaluation={
            "rows": 100,
            "drawn_from": "validation",
            "base_model": "tiny",
            "base": {"loss": 3.0},
            "tuned": {"loss": 1.0},
            "samples": [sample] * 3,
        },
    )


if __name__ == "__main__":
    main()
