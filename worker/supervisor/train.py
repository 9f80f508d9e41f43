"""One attempt at training a job: feed the trainer its run folder, follow its reports, hand over what it makes."""

import contextlib
import json
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.estimate.machine import Machine, predict, refused_precision, resolve_hardware_auto
from api.infra.storage import StorageUnavailable
from api.records import dependencies, events, jobs, queue, trackings
from api.records.base_models import BaseModelRow
from api.records.database import is_outage
from api.records.dependencies import Dependency
from api.records.jobs import Job, StaleFence
from api.records.queue import Claim
from api.spec.lifecycle import FailureReason, Stage
from api.spec.manifest import ORIGIN
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, with_hardware
from worker.shared import memory_overrides
from worker.shared.cgroup import out_of_memory_kills
from worker.supervisor.child import Child
from worker.supervisor.estimates import Workloads, machine_of, observe
from worker.supervisor.faults import FROM_OUTSIDE, AttemptFailed, requeue
from worker.supervisor.inputs import base_model, fetch_state
from worker.supervisor.lease import Heartbeat
from worker.supervisor.lineage import fetch_judges, fetch_start, fetch_weights, weights_are_damaged
from worker.supervisor.node import Node
from worker.supervisor.out_of_memory import as_attempted, killed_for_memory, take_less
from worker.supervisor.outputs import publish, store_checkpoint, store_state
from worker.supervisor.prepare import fetch_arrays
from worker.supervisor.progress import Progress
from worker.supervisor.provenance import origin_of
from worker.supervisor.slots import Slot

log = structlog.get_logger(__name__)

LISTEN_S = 0.5
SPOILED_BY_A_BASE = (FailureReason.INTERNAL, FailureReason.DIVERGED)
"""What flipped bits in a base model look like: only then its copy is hashed again, which takes a while."""
DAMAGED_COPY = "The worker's copy of the base model was damaged, and is fetched again"
AFTER_TRAINING = "exporting"
"""The phase of the trainer that ends what an estimate foretells of its work; the comparison before is part of that."""
PUBLISH_PATIENCE_S = 900
"""How long a finished model waits for a database or a storage that is away."""


def train(node: Node, claim: Claim, job: Job, slot: Slot, trainer: Child, folder: Path, beat: Heartbeat) -> None:
    """Raises AttemptFailed, Stale, StorageUnavailable."""
    base, machine = base_model(node, job), machine_of(node, slot)
    resolved = _settle(node, claim, job, base, machine)
    attempted = as_attempted(job, resolved)
    estimate = _predict(node, claim, job, base, attempted, machine)
    _fill_run_folder(node, job, base, resolved, folder)
    fetch_arrays(node, claim, job, base, folder, beat)
    _fetch_state(node, claim, job, folder)
    memory_overrides.write(folder, attempted, resolved)
    with node.context.database.write() as session:
        trackings.begin(session, job.id)
    kills_before = out_of_memory_kills()
    trainer.command(cmd="run", dir=str(folder))
    trainer.log_file = folder / "log.txt"
    attempt = Attempt(node, claim, job, trainer, folder, beat)
    try:
        attempt.follow()
    except AttemptFailed as fault:
        killed = attempt.exit_code == -signal.SIGKILL and out_of_memory_kills() > kills_before
        if killed or fault.reason is FailureReason.OUT_OF_MEMORY:
            take_less(node, claim, job, base, attempted, machine, killed=killed)
        if killed:
            raise killed_for_memory(attempted, machine, estimate) from fault
        if fault.reason in SPOILED_BY_A_BASE and weights_are_damaged(node, job, base):
            raise AttemptFailed(FailureReason.WORKER_FAULT, DAMAGED_COPY) from fault
        raise
    if estimate and attempt.took and not job.state:  # who goes on from a state has not trained the whole
        observe(node, base, estimate["predicted"], attempt.took)


def _settle(node: Node, claim: Claim, job: Job, base: BaseModelRow, machine: Machine) -> ResolvedRecipe:
    """What depends on the machine is decided by the first that trains the job, and kept for every later attempt."""
    asked = ResolvedRecipe.model_validate(job.resolved)
    wished = Recipe.model_validate(job.recipe).training.precision  # what was settled elsewhere is trained, if slowly
    if refused := refused_precision(wished, machine):
        raise AttemptFailed(FailureReason.INVALID_RECIPE, f"{refused}.", param="training.precision")
    resolved = resolve_hardware_auto(
        asked, base.facts, machine, Workloads.of(job.estimate["rows"]).train if job.estimate else None
    )
    if resolved != asked:
        with node.context.database.write() as session:
            jobs.update_fenced(session, job.id, claim.fence, resolved=with_hardware(job.resolved or {}, resolved))
    return resolved


def _predict(
    node: Node, claim: Claim, job: Job, base: BaseModelRow, attempted: ResolvedRecipe, machine: Machine
) -> dict[str, Any] | None:
    """What this worker expects of it, stored with the job; None of jobs from before there were estimates."""
    if not job.estimate:
        return None
    epoch = Workloads.of(job.estimate["rows"])
    predicted = predict(attempted, base.facts, epoch.train, epoch.validation, machine)
    estimate = {**job.estimate, "predicted": predicted.stored()}
    with node.context.database.write() as session:
        jobs.update_fenced(session, job.id, claim.fence, estimate=estimate)
    return estimate


def _fill_run_folder(node: Node, job: Job, base: BaseModelRow, resolved: ResolvedRecipe, folder: Path) -> None:
    assert job.resolved is not None, job.id
    (folder / "recipe.json").write_text(json.dumps(with_hardware(job.resolved, resolved), indent=2))
    (folder / "base").symlink_to(fetch_weights(node, job, base))
    fetch_start(node, job, folder / "start")
    (folder / ORIGIN).write_text(origin_of(node, job, base).model_dump_json(indent=2))
    fetch_judges(node, job, Recipe.model_validate(job.recipe), folder)


def _fetch_state(node: Node, claim: Claim, job: Job, folder: Path) -> None:
    """Put the state to resume from into the run folder, and say of which step it is."""
    if job.state is None:
        return
    newest, step = job.state["step"], fetch_state(node.context.storage, job.state, folder / "resume")
    message, level = f"Fine-tuning job goes on from step {step}", "info"
    if step < newest:
        message, level = f"The state saved at step {newest} is damaged: {message[0].lower()}{message[1:]}", "warn"
    with node.context.database.write() as session:
        events.add_event(session, jobs.lock_for_attempt(session, job.id, claim.fence).id, message, level=level)


class Attempt:
    """From the start of the trainer to its last report."""

    def __init__(self, node: Node, claim: Claim, job: Job, trainer: Child, folder: Path, beat: Heartbeat) -> None:
        self._node, self._claim, self._job = node, claim, job
        self._trainer, self._folder, self._beat = trainer, folder, beat
        self.exit_code: int | None = None
        """Of a trainer that is gone without a word."""
        self._progress = Progress(node, claim, job)
        self._began_at = time.monotonic()
        self._phases: dict[str, float] = {}
        """When each began."""
        self.took: dict[str, Any] = {}
        """Once it is done: peak_bytes, peaks by phase, seconds, training_s."""
        self._stepped_at: float | None = None
        self._step_seconds: list[float] = []
        self._unstored: Callable[[], None] | None = None
        """Stores the newest state that could not be stored when it came."""
        self._told_to_stop_at: float | None = None

    def follow(self) -> None:
        while True:
            self._mind()
            try:
                report = self._trainer.next_report(LISTEN_S)
            except TimeoutError:
                self._progress.flush()
                continue
            if report is None:
                raise self._death()
            if self._handle(report):
                return
            self._progress.flush()

    def _mind(self) -> None:
        """What is to be done whether or not the trainer says something."""
        if self._beat.lost.is_set():
            raise StaleFence(self._job.id)
        now = time.monotonic()
        if self._told_to_stop_at is None:
            if self._beat.pause.is_set() or self._node.stopping.is_set():
                self._trainer.command(cmd="pause" if self._beat.pause.is_set() else "stop")
                self._told_to_stop_at = now
        elif self._node.stopping.is_set() and now - self._told_to_stop_at > self._node.context.settings.stop_grace_s:
            self._leave("The worker had to stop before a new state was saved.")
            raise StaleFence(self._job.id)
        if self._trainer.silent_s > self._patience():
            self._trainer.dump_stacks()
            self._trainer.wait(timeout_s=2)
            log.error("trainer_hung", job_id=self._job.id, log=self._trainer.log_tail())
            raise AttemptFailed(FailureReason.HUNG)

    def _patience(self) -> float:
        typical = statistics.median(self._step_seconds) if self._step_seconds else 0.0
        return max(self._node.context.settings.hung_s, 10 * typical)

    def _handle(self, report: dict[str, Any]) -> bool:
        """Whether this was the last one."""
        now = time.monotonic()
        match report["type"]:
            case "metrics":
                if self._stepped_at is not None:
                    self._step_seconds = [*self._step_seconds[-99:], now - self._stepped_at]
                self._stepped_at = now
                self._progress.add(report)
            case "phase" | "warning" | "samples":
                if report["type"] == "phase":
                    self._phases.setdefault(report["phase"], now)
                self._progress.add(report)
            case "state":
                self._keep(report, lambda path: store_state(self._node, self._claim, self._job, report["step"], path))
            case "checkpoint":
                self._keep(report, lambda path: store_checkpoint(self._node, self._claim, self._job, report, path))
            case "done":
                self._patiently(lambda: self._progress.flush(force=True))
                path = self._folder / report["path"]
                self.took = self._measured(report, now)
                self._patiently(
                    lambda: publish(self._node, self._claim, self._job, {**report, "took": self.took}, path)
                )
                self._ring_for_dependants()
                return True
            case "stopped":
                self._patiently(lambda: self._progress.flush(force=True))
                if self._unstored is not None:
                    self._patiently(self._unstored)
                self._patiently(lambda: self._leave("The worker was asked to stop: the job goes on where it was."))
                return True
            case "error":
                self._patiently(lambda: self._progress.flush(force=True))
                log.warning("trainer_failed", job_id=self._job.id, report=report, log=self._trainer.log_tail())
                raise AttemptFailed(FailureReason(report["reason"]), report.get("message"))
        return False

    def _measured(self, report: dict[str, Any], now: float) -> dict[str, Any]:
        training = self._phases.get(AFTER_TRAINING, now) - self._phases.get("training", now)
        seconds = {"seconds": now - self._began_at, "training_s": training}
        return {
            **seconds,
            **{name: report[name] for name in ("peak_bytes", "peaks", "processor_s", "device") if name in report},
        }

    def _keep(self, report: dict[str, Any], store: Callable[[Path], None]) -> None:
        """Store what the trainer saved. Training goes on whether or not that works; a state is not lost by it."""
        path = self._folder / report["path"]
        self._unstored = None if report["type"] == "state" else self._unstored
        try:
            self._progress.flush(force=True)  # first: who goes on from this state will not tell of these steps again
            store(path)
        except (StorageUnavailable, SQLAlchemyError) as error:
            if isinstance(error, SQLAlchemyError) and not is_outage(error):
                raise
            log.warning("not_stored", job_id=self._job.id, what=report["type"], error=type(error).__name__)
            if report["type"] == "state":
                self._unstored = lambda: store(path)
        except FileNotFoundError:
            # The trainer keeps only its newest states; this one was replaced while the one before was stored.
            log.info("replaced", job_id=self._job.id, what=report["type"], path=report["path"])

    def _patiently(self, act: Callable[[], None]) -> None:
        """What must not be lost is tried until it works, or until the job is not ours any more."""
        give_up_at = time.monotonic() + PUBLISH_PATIENCE_S
        while True:
            try:
                act()
                return
            except (StorageUnavailable, SQLAlchemyError) as error:
                if isinstance(error, SQLAlchemyError) and not is_outage(error):
                    raise
                if self._beat.lost.is_set() or time.monotonic() > give_up_at:
                    raise
                log.warning("trying_again", job_id=self._job.id, error=type(error).__name__)
                self._beat.lost.wait(2.0)

    def _ring_for_dependants(self) -> None:
        """Stages that waited for this job. Should this fail, the sweep rings."""
        waiting: Sequence[Dependency] = ()
        with contextlib.suppress(SQLAlchemyError), self._node.context.database.read() as session:
            waiting = dependencies.on(session, self._job.id)
        for each in waiting:
            self._node.context.doorbell.ring(Stage(each.stage), each.job_id)

    def _leave(self, message: str) -> None:
        """Back into the queue, which costs the job none of its retries."""
        with self._node.context.database.write() as session:
            requeue(session, jobs.lock_for_attempt(session, self._job.id, self._claim.fence), message)
            queue.end_attempt(session, self._claim, "stopped")
        self._node.context.doorbell.ring(Stage.TRAIN, self._job.id)

    def _death(self) -> AttemptFailed:
        with contextlib.suppress(SQLAlchemyError):
            self._progress.flush(force=True)  # the step that it died at is how poison is told
        self.exit_code = self._trainer.wait(timeout_s=5)
        log.error("trainer_died", job_id=self._job.id, code=self.exit_code, log=self._trainer.log_tail())
        if not self._phases:
            return AttemptFailed(FailureReason.WORKER_FAULT, "The trainer ended before it looked at the job")
        began_a_step = self._stepped_at is not None or self._job.progress.get("step", 0) > 0
        # Whoever is killed from outside before the first step has done no step that could be to blame.
        return AttemptFailed(FailureReason.WORKER_LOST, died=began_a_step or -self.exit_code not in FROM_OUTSIDE)
