"""Waiting jobs: the position of each, the reason why it waits, and when it will probably run.

One reading of the queue serves all requests within a second: a list of a hundred waiting jobs, or a hundred clients
that poll, must not cost a hundred readings.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from api.context import Context
from api.estimate.queue_forecast import GUESSED, SAFE, Planned, Span, Task, plan
from api.records import job_queue, waiting
from api.records.job_queue import Lease
from api.records.jobs import Job
from api.records.waiting import LiveWorker, QueueReading, WaitingJob
from api.spec.lifecycle import JobStatus, Stage

PREPARE_S = 3.0
PREPARE_BYTES_PER_S = 1e6
"""Bytes of a file that preparation reads in a second on one core (docs/benchmarks.md, "Rows")."""
PREPARE_FACTORS = (0.2, 4.0)
LEASE_MARGIN_S = 15.0
"""The clocks of this machine and of the database may differ by this many seconds."""
LEAST_LEFT_S = 5.0
"""Remaining seconds that are shown for a running job which has exceeded its prediction."""
VERBS = {Stage.PREPARE: "prepares files", Stage.TRAIN: "trains"}


@dataclass(frozen=True)
class QueueView:
    position: int | None
    """Position in the queue; 1 is the next job to start. None while something other than the jobs before it keeps it
    from starting."""
    reason: str
    start: Span | None = None
    """Time at which the training of the job will probably begin."""
    finish: Span | None = None


@dataclass(frozen=True)
class TimedJob:
    """A job, with its probable end if it waits or runs, and its place in the queue if it waits."""

    job: Job
    finish: Span | None = None
    queue: QueueView | None = None

    @property
    def running_until(self) -> float | None:
        """The expected end of a running job; None for other jobs."""
        return None if self.finish is None or self.queue is not None else self.finish.expected


def timed(context: Context, job: Job) -> TimedJob:
    return all_timed(context, [job])[0]


def all_timed(context: Context, listed: Sequence[Job]) -> list[TimedJob]:
    now = time.time()
    needed = [job for job in listed if _waits(job, now)]
    board = _board(context, needed) if needed else None
    return [
        TimedJob(job, view.finish, view) if board and (view := board.view(job)) else _running(job, now)
        for job in listed
    ]


def warnings(context: Context) -> list[str]:
    """Return a warning for each stage in which no worker takes work, so that a new job would wait."""
    board = _board(context, [])
    return [f"The job would wait: {problem}" for stage in Stage if (problem := board.no_worker(stage))]


def _waits(job: Job, now: float) -> bool:
    """Return whether the job waits for a worker: it is in the queue, or the worker that held it is lost."""
    if job.owner is None:
        return job.status in (Stage.PREPARE.waiting, Stage.TRAIN.waiting)
    return job.lease_until is not None and job.lease_until + LEASE_MARGIN_S < now


def _running(job: Job, now: float) -> TimedJob:
    if job.status != JobStatus.RUNNING or job.estimated_finish is None:
        return TimedJob(job)
    left = max(job.estimated_finish - now, LEAST_LEFT_S)
    measured = job.estimate["predicted"]["measured"] if job.estimate and "predicted" in job.estimate else None
    guessed = job_queue.is_guess(measured, job.progress.get("step"))
    return TimedJob(job, Span.at(now) + Span.duration(left, GUESSED if guessed else SAFE))


def _board(context: Context, needed: Sequence[Job]) -> "Board":
    """Return a reading of the queue that knows these jobs: the last reading if it is new enough, else a new one."""

    def read() -> Board:
        with context.database.read() as session:
            return Board(waiting.read(session))

    board: Board = context.queue_board.get(read, lambda latest: all(latest.knows(job) for job in needed))
    return board


class Board:
    """One reading of the queue, with the planned start and end of every waiting job."""

    def __init__(self, reading: QueueReading) -> None:
        self._reading = reading
        self._factors = SAFE if any(worker.measured for worker in self._of(Stage.TRAIN)) else GUESSED

    def knows(self, job: Job) -> bool:
        """Return whether the reading has the job in its present stage. A job that a lost worker holds counts as known:
        its lease is older than any reading that is still used."""
        known = self._reading.waiting.get(job.id)
        return job.owner is not None or (known is not None and known.stage.waiting == job.status)

    def view(self, job: Job) -> QueueView | None:
        """Return the job's place in the queue; None if the job does not wait."""
        known = self._reading.waiting.get(job.id)
        if known is None:
            lost = next((lease for lease in self._reading.leases if lease.job_id == job.id and lease.expired), None)
            return None if lost is None else QueueView(None, self._lost(lost.stage))
        planned = (self._prepared if known.stage is Stage.PREPARE else self._trained).get(job.id)
        if obstacle := self._obstacle(known):
            return QueueView(None, obstacle)
        if known.run_after is not None and known.run_after > self._reading.at:
            start = Span(known.run_after, known.run_after, math.inf)
            return QueueView(None, "it is retried after a fault, which its events describe", start)
        if planned is None:
            return QueueView(None, "no live worker has a slot that fits the job")
        if known.stage is Stage.PREPARE:
            return QueueView(planned.position, self._turn(known, planned), self._start_after(planned))
        return QueueView(planned.position, self._turn(known, planned), planned.start, planned.finish)

    def no_worker(self, stage: Stage) -> str | None:
        """Return the reason why no worker takes work of this stage; None if one does."""
        live = self._of(stage)
        if not live:
            start = f"`attune up`, or `attune worker --stage {stage}`"
            return f"no live worker {VERBS[stage]}: the operator has to start one ({start})"
        if all(worker.held for worker in live):
            verb = "is" if len(live) == 1 else "are"
            return f"{_every(live)} that {VERBS[stage]} {verb} paused: {live[0].held}"
        return None

    def _obstacle(self, job: WaitingJob) -> str | None:
        """Return the reason, other than the jobs before it, that keeps the job from starting; None if there is none."""
        if problem := self.no_worker(job.stage):
            return problem
        if job.needs is not None:
            return f"waits for the stage '{job.needs}' of its pipeline"
        live = self._of(job.stage)
        if job.gpus > max(worker.gpus for worker in live):
            verb = "has" if len(live) == 1 else "have"
            return f"needs {job.gpus} GPU; {_every(live)} {verb} none"
        if job.gpus > max(worker.gpus for worker in live if not worker.held):
            return f"needs {job.gpus} GPU; every worker that has one is paused"
        return None

    def _turn(self, job: WaitingJob, planned: Planned) -> str:
        if planned.position > 1:
            before = planned.position - 1
            return f"{before} job{'s' if before > 1 else ''} before it"
        if planned.start.expected <= self._reading.at:
            return "next: a free worker starts it in a moment"
        slots = sum(worker.slots for worker in self._of(job.stage))
        return "next: the only slot is busy" if slots == 1 else f"next: all {slots} slots are busy"

    def _lost(self, stage: Stage) -> str:
        problem = self.no_worker(stage)
        return "its worker no longer reports: " + (problem or "another one takes the job over within a minute")

    def _of(self, stage: Stage) -> list[LiveWorker]:
        return [worker for worker in self._reading.workers if worker.stage is stage]

    @cached_property
    def _prepared(self) -> dict[str, Planned]:
        at_work: dict[str, float] = {}
        for lease in self._reading.leases:
            if lease.stage is Stage.PREPARE and not lease.expired:
                at_work[lease.project_id] = at_work.get(lease.project_id, 0.0) + 1
        return plan(self._tasks(Stage.PREPARE), self._slots(Stage.PREPARE), at_work, self._reading.turns)

    @cached_property
    def _trained(self) -> dict[str, Planned]:
        return plan(self._tasks(Stage.TRAIN), self._slots(Stage.TRAIN), self._reading.usage)

    def _tasks(self, stage: Stage) -> list[Task]:
        return [
            Task(
                id=job.id,
                project=job.project,
                created_at=job.created_at,
                priority=job.priority,
                needs_gpu=job.gpus > 0,
                cost=job.work if stage is Stage.TRAIN else 1.0,
                duration=self._duration(job),
            )
            for job in self._reading.waiting.values()
            if job.stage is stage and job.needs is None and (job.run_after or 0.0) <= self._reading.at
        ]

    def _duration(self, job: WaitingJob) -> Span:
        if job.stage is Stage.PREPARE:
            return Span.duration(PREPARE_S + job.file_bytes / PREPARE_BYTES_PER_S, PREPARE_FACTORS)
        return Span.duration(job.expected_s, self._factors)

    def _slots(self, stage: Stage) -> list[tuple[Span, bool]]:
        """Return, for each slot of the workers that take work, when the slot is free and whether it has a GPU."""
        busy, slots = self._busy(stage), []
        for worker in self._of(stage):
            if not worker.held:
                ends = busy.get(worker.owner, [])[: worker.slots]
                free = [*ends, *[Span.at(self._reading.at)] * (worker.slots - len(ends))]
                slots += [(span, number < worker.gpus) for number, span in enumerate(free)]
        return slots

    def _busy(self, stage: Stage) -> Mapping[str, list[Span]]:
        """Return {worker: the expected ends of its jobs}."""
        busy: dict[str, list[Span]] = {}
        for lease in self._reading.leases:
            if lease.stage is stage and not lease.expired:
                busy.setdefault(lease.owner, []).append(self._end(lease))
        return busy

    def _end(self, lease: Lease) -> Span:
        now = Span.at(self._reading.at)
        if lease.stage is Stage.PREPARE:
            return now + Span.duration(PREPARE_S, PREPARE_FACTORS)
        finish = lease.estimated_finish
        left = None if finish is None else max(finish - now.expected, LEAST_LEFT_S)
        return now + Span.duration(left, GUESSED if lease.guessed else SAFE)

    def _start_after(self, prepared: Planned) -> Span | None:
        """Return when a job that is not prepared yet will begin to train; None if no worker trains.

        The latest time is after all jobs that wait to train now, or unknown if other jobs are prepared before this one.
        """
        free = [span for span, _ in self._slots(Stage.TRAIN)]
        if not free:
            return None
        ends = [planned.finish.latest for planned in self._trained.values()]
        last = max([*ends, min(span.latest for span in free)])
        earliest = max(prepared.finish.earliest, min(span.earliest for span in free))
        latest = math.inf if prepared.position > 1 else max(prepared.finish.latest, last)
        return Span(earliest, max(earliest, prepared.finish.expected), latest)


def _every(live: Sequence[LiveWorker]) -> str:
    return {1: "the only worker", 2: "both workers"}.get(len(live), f"all {len(live)} workers")
