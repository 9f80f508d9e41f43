"""Prometheus metrics of the whole service, read from the database when they are scraped.

Every API process reports the same numbers, so that one target is enough.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from statistics import mean

import anyio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from api.context import Context
from api.infra import beats
from api.infra.beats import SeenProcess
from api.infra.latest import Latest
from api.records import job_queue, monitoring
from api.spec.lifecycle import FINAL, JobStatus, Stage

CACHE_S = 10.0
"""Seconds for which scrapes get the numbers that an earlier scrape has read."""


class Monitor(Collector):
    def __init__(self, context: Context) -> None:
        self._context = context
        self._threads = anyio.CapacityLimiter(1)
        self._families = Latest[list[Metric]](CACHE_S)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the text format that the scraper accepts, and its content type."""
        encode, content_type = choose_encoder(accept)
        return await anyio.to_thread.run_sync(encode, self._registry, limiter=self._threads), content_type

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the names of the metrics are known only after a scrape, and the registry works without
        them."""
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._families.get(self._read)

    def _read(self) -> list[Metric]:
        processes = beats.seen(self._context.settings.broker_url)
        with self._context.database.read() as session:
            return list(_families(session, processes))


def _families(session: Session, processes: Sequence[SeenProcess]) -> Iterator[Metric]:
    yield _gauge("attune_build_info", "The version of the API process.", "version", {version("attune"): 1})
    yield from _queue(session)
    yield from _jobs(session)
    yield from workers(session, processes)
    yield from _training(session)
    yield _gauge("attune_stored_bytes", "Stored objects, by kind.", "kind", monitoring.bytes_by_kind(session))
    yield _gauge(
        "attune_webhook_deliveries",
        "Stored deliveries to webhooks, by outcome.",
        "status",
        dict.fromkeys(("pending", "delivered", "failed"), 0) | monitoring.deliveries_by_status(session),
    )


def _queue(session: Session) -> Iterator[Metric]:
    backlog = monitoring.backlog(session)
    counts = {stage: count for stage, (count, _) in backlog.items()}
    ages = {stage: age for stage, (_, age) in backlog.items()}
    yield _gauge("attune_queue_jobs", "Jobs that wait for a slot, and files that wait for a scan.", "stage", counts)
    yield _gauge("attune_queue_oldest_seconds", "Age of the oldest waiting job or file.", "stage", ages)


def _jobs(session: Session) -> Iterator[Metric]:
    by_status = {status.value: 0 for status in JobStatus} | monitoring.jobs_by_status(session)
    unfinished = {status: count for status, count in by_status.items() if status not in FINAL}
    finished = {status: count for status, count in by_status.items() if status in FINAL}
    yield _gauge("attune_jobs", "Unfinished jobs.", "status", unfinished)
    yield _counter("attune_jobs_finished", "Jobs that ended.", "status", finished)
    failures = monitoring.failures_by_code(session)
    yield _counter("attune_jobs_failed", "Failed jobs, by the code of their error.", "code", failures)


def workers(session: Session, processes: Sequence[SeenProcess]) -> Iterator[Metric]:
    """Yield the metrics of workers, and those of the other processes, such as samplers.

    A worker's stage is always listed, with 0 if no worker runs. Another process is listed once one has started.
    """
    known = monitoring.beats(session)
    running = [process for process in processes if not process.stopped and process.age_s < monitoring.SILENT_S]
    beaten = [(worker.stage, worker.owner, worker.slots, alive, age) for worker, alive, age in known]
    beaten += [(each.stage, each.owner, each.slots, each.alive, each.age_s) for each in running]
    none = dict.fromkeys((*(stage.value for stage in Stage), *(process.stage for process in running)), 0)
    live, slots = Counter(none), Counter(none)
    for stage, _, count, alive, _ in beaten:
        live[stage] += alive
        slots[stage] += count * alive
    busy = Counter(none)
    busy.update(lease.stage.value for lease in job_queue.leases(session) if not lease.expired)
    for process in running:
        busy[process.stage] += (process.answering or 0) * process.alive
    paused = Counter(worker.stage for worker, alive, _ in known if alive and worker.held is not None)
    of_jobs = {stage.value: 0 for stage in Stage}
    yield _gauge("attune_workers", "Live workers.", "stage", live)
    yield _gauge(
        "attune_workers_paused", "Live workers that take no work because of a fault.", "stage", of_jobs | paused
    )
    yield _gauge("attune_slots", "Jobs or requests that the live workers can work on at once.", "stage", slots)
    yield _gauge("attune_slots_busy", "Jobs or requests that the live workers work on.", "stage", busy)
    ages = GaugeMetricFamily(
        "attune_worker_beat_age_seconds",
        "Time since the last beat of each worker that did not shut down.",
        labels=["stage", "worker"],
    )
    for stage, owner, _, _, age in beaten:
        ages.add_metric([stage, owner], age)
    yield ages


def _training(session: Session) -> Iterator[Metric]:
    step_seconds, speeds = defaultdict[str, list[float]](list), defaultdict[str, float](float)
    for lease in job_queue.leases(session):
        step = monitoring.newest_step(session, lease.job_id) if lease.stage is Stage.TRAIN else None
        if step is None or not step.get("tokens_per_second"):
            continue
        base = monitoring.base_of(session, lease.job_id)
        speeds[base] += step["tokens_per_second"]
        step_seconds[base].append(step["tokens"] / step["tokens_per_second"])
    means = {base: mean(values) for base, values in step_seconds.items()}
    name = "base_model"
    yield _gauge("attune_training_step_seconds", "Mean time of the newest step of each running job.", name, means)
    yield _gauge("attune_training_tokens_per_second", "Sum of the running jobs' newest speeds.", name, speeds)
    total = monitoring.total_usage(session)
    yield CounterMetricFamily(
        "attune_trained_tokens", "Tokens trained by ended attempts.", value=float(total["trained_tokens"])
    )
    devices = {device: total[f"{device}_seconds"] for device in ("cpu", "gpu")}
    yield _counter("attune_device_seconds", "Device time of ended attempts.", "device", devices)
    sampled = {kind: total[f"{kind}_tokens"] for kind in ("prompt", "completion")}
    yield _counter("attune_sampled_tokens", "Tokens of completions.", "kind", sampled)


def _gauge(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], float(value))
    return family


def _counter(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a counter. The library adds the suffix `_total` to the name of its samples."""
    family = CounterMetricFamily(name, help, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], float(value))
    return family
