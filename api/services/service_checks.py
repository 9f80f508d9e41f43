"""Checks of the whole service, read from its records: workers, queue, base models and stored bytes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from api.context import Context
from api.infra import beats
from api.records import base_models, job_queue, monitoring
from api.services.diagnosis import CLOCK_S, Check, Status
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage

STUCK_S = 3600
"""Seconds that a job may wait although a slot of its stage is free, as in docs/monitoring/alerts.yml."""
CONSEQUENCES = {
    Stage.PREPARE: "jobs wait",
    Stage.TRAIN: "jobs wait",
    SAMPLE: "chats are refused and batches wait",
    BATCH: "batches wait",
    EVALUATE: "runs of evals wait",
    DELIVER: "webhooks and metrics wait",
}
"""The consequence while no worker of the stage runs."""


@dataclass(frozen=True)
class SeenWorker:
    """A worker of jobs, or another process, that did not shut down, as its last report describes it."""

    stage: str
    host: str
    alive: bool
    slots: int
    age_s: float
    """Seconds since the report."""
    paused: str | None
    """Reason why the worker takes no work at the moment."""
    version: str | None
    clock_ahead_s: float | None


def check_workers(context: Context) -> Iterator[Check]:
    """Yield a check of each stage, and checks of the live workers' versions and clocks.

    The stages of jobs need a worker. Other stages are checked if a process of theirs ran in the last hour.
    """
    seen = _seen(context)
    for stage, consequence in CONSEQUENCES.items():
        of_stage = [worker for worker in seen if worker.stage == stage]
        if of_stage or isinstance(stage, Stage):
            yield _check_stage(stage, consequence, of_stage)
    live = [worker for worker in seen if worker.alive]
    if live:
        yield _check_versions(live)
        yield _check_clocks(live)


def check_queue(context: Context) -> Check:
    """Check that no job or file waits for long while a slot is free."""
    with context.database.read() as session:
        backlog = monitoring.backlog(session)
        held = Counter(lease.stage.value for lease in job_queue.leases(session) if not lease.expired)
        slots = Counter[str]()
        for worker, alive, _ in monitoring.beats(session):
            slots[worker.stage] += worker.slots * (alive and worker.held is None)
    waits = {stage: (count, age_s) for stage, (count, age_s) in backlog.items() if count}
    detail = "; ".join(
        f"{_count(count, 'file' if stage == 'scan' else 'job')} for {stage}, the oldest for {_minutes(age_s)}"
        for stage, (count, age_s) in waits.items()
    )
    if any(age_s > STUCK_S and held[stage] < slots[stage] for stage, (_, age_s) in waits.items()):
        remedy = "`attune jobs get JOB` shows why a job waits. It may need a GPU that no worker has."
        return Check("queue", "warning", f"waiting although slots are free: {detail}", remedy)
    return Check("queue", "ok", f"waiting: {detail}" if detail else "nothing waits")


def check_base_models(context: Context) -> Check:
    with context.database.read() as session:
        names = base_models.names(session)
    if not names:
        remedy = "Add one: `attune models add smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct`"
        return Check("base models", "warning", "none: there is nothing to fine-tune", remedy)
    return Check("base models", "ok", ", ".join(names))


def check_stored(context: Context) -> Check:
    """Report the stored bytes by kind of object."""
    with context.database.read() as session:
        sizes = monitoring.bytes_by_kind(session)
    kinds = sorted((kind for kind, size in sizes.items() if size), key=lambda kind: -sizes[kind])
    parts = ", ".join(f"{'base models' if kind == 'base' else kind} {_size(sizes[kind])}" for kind in kinds)
    return Check("stored bytes", "ok", f"{_size(sum(sizes.values()))}{parts and f': {parts}'}")


def _seen(context: Context) -> list[SeenWorker]:
    with context.database.read() as session:
        known = monitoring.beats(session)
    processes = beats.seen(context.settings.broker_url)
    of_jobs = [
        SeenWorker(
            worker.stage, worker.host, alive, worker.slots, age_s, worker.held, worker.version, worker.clock_ahead_s
        )
        for worker, alive, age_s in known
    ]
    others = [
        SeenWorker(
            each.stage, each.place[0], each.alive, each.slots, each.age_s, None, each.version, each.clock_ahead_s
        )
        for each in processes
        if not each.stopped and each.age_s < monitoring.SILENT_S
    ]
    return of_jobs + others


def _check_stage(stage: str, consequence: str, seen: Sequence[SeenWorker]) -> Check:
    component = f"workers: {stage}"
    live = [worker for worker in seen if worker.alive]
    if not live:
        start = f"Start one: `attune up`, or `attune worker --stage {stage}`"
        return Check(component, "problem", f"none is live, so {consequence}", start)
    paused = [f"{worker.host}: {worker.paused}" for worker in live if worker.paused]
    if paused:
        return Check(
            component,
            "warning",
            f"{len(paused)} of {len(live)} paused: {'; '.join(paused)}",
            "Remove the cause; they resume by themselves.",
        )
    lost = [f"{worker.host}, silent for {_minutes(worker.age_s)}" for worker in seen if not worker.alive]
    if lost:
        return Check(
            component,
            "warning",
            f"{len(live)} live, {len(lost)} lost: {'; '.join(lost)}",
            "See the log of the lost worker, and start it again. Its work goes to another worker.",
        )
    return Check(component, "ok", f"{len(live)} live, {_count(sum(worker.slots for worker in live), 'slot')}")


def _check_versions(live: Sequence[SeenWorker]) -> Check:
    own = version("attune")
    other = sorted({f"{worker.host} ({worker.stage}): {worker.version}" for worker in live if worker.version != own})
    if other:
        return Check(
            "versions",
            "warning",
            f"{own} on this server, but {'; '.join(other)}",
            "Install the same version everywhere.",
        )
    return Check("versions", "ok", f"{own} on this server and all workers")


def _check_clocks(live: Sequence[SeenWorker]) -> Check:
    """Compare the workers' clocks with the database's, or the broker's for processes that take no jobs."""
    known = [(worker.clock_ahead_s, worker) for worker in live if worker.clock_ahead_s is not None]
    wrong = [
        f"{worker.host} ({worker.stage}) by {ahead_s:+.0f} s" for ahead_s, worker in known if abs(ahead_s) > CLOCK_S[0]
    ]
    if not wrong:
        return Check("workers' clocks", "ok", f"within {CLOCK_S[0]} s of the database's")
    status: Status = "problem" if max(abs(ahead_s) for ahead_s, _ in known) > CLOCK_S[1] else "warning"
    return Check(
        "workers' clocks",
        status,
        f"differ from the database's: {'; '.join(wrong)}",
        "Synchronize the clocks of all machines, for example with chrony.",
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60)):,} min"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
