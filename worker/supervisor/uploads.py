"""Storage of states and checkpoints by a thread of its own, while another thread handles the trainer's reports."""

import itertools
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.infra.storage import StorageUnavailable
from api.records import events, jobs
from api.records.database import is_outage
from api.records.jobs import StaleFence
from worker.shared.reports import CheckpointReport, StateReport
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.outputs import store_checkpoint, store_state

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Seconds between checks of whether the attempt still owns the job."""
RETRY_S = 10.0
"""Seconds between tries during an outage of the storage or the database."""


class Uploads:
    """A context manager. What the trainer has reported is stored one by one: checkpoints, then the newest state. During
    an outage all of it waits, and each further try begins with the state, which saves more work than a checkpoint.

    The end of the context makes one more try, unless the attempt no longer owns the job. An event then names the
    checkpoints that are lost.
    """

    def __init__(self, attempt: AttemptContext, flush: Callable[[], None]) -> None:
        """`flush` writes the metrics of the reported steps. They are written before a state is stored, because an
        attempt that resumes from the state does not report its steps again."""
        self._attempt, self._flush = attempt, flush
        self._lost = attempt.beat.lost
        self._state = WaitingState(attempt.folder / "uploading")
        self._checkpoints: deque[CheckpointReport] = deque()
        self._failed = False
        """Whether the last try met an outage."""
        self._retry_at_s = 0.0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"uploads-{attempt.job.id}")
        self._running: Future[None] | None = None

    def put(self, report: StateReport | CheckpointReport) -> None:
        """Let the state or checkpoint wait until `check` or `finish` is called. It replaces an older waiting state."""
        if isinstance(report, CheckpointReport):
            self._checkpoints.append(report)
        else:
            self._state.put(report.step, self._attempt.folder / report.path)

    def check(self) -> None:
        """Begin to store what waits; during an outage, RETRY_S after the last try. Raise the error of an upload, if one
        has failed for another reason."""
        if self._running is not None and self._running.done():
            ended, self._running = self._running, None
            ended.result()
        waits = self._checkpoints or self._state.waits
        if self._running is None and waits and time.monotonic() >= self._retry_at_s:
            self._running = self._executor.submit(self._try)

    def finish(self) -> None:
        """Store what waits, with a single try, unless the attempt no longer owns the job. Raise the error of an upload,
        if one fails."""
        while self._running is not None and not self._lost.is_set():
            wait([self._running], timeout=LOOK_S)
            self.check()
        if not self._lost.is_set():
            self._store_all()

    def _try(self) -> None:
        try:
            self._store_all()
        except (StorageUnavailable, SQLAlchemyError) as error:
            if isinstance(error, SQLAlchemyError) and not is_outage(error):
                raise
            log.warning("not_stored_yet", job_id=self._attempt.job.id, error=type(error).__name__)
            self._retry_at_s = time.monotonic() + RETRY_S

    def _store_all(self) -> None:
        """Store the checkpoints and the newest state; after an outage, the state first. Before it, checkpoints come
        first, because an attempt that resumes from the state does not write them again."""
        state_first, self._failed = self._failed, True
        while self._checkpoints:
            report = self._checkpoints[0]
            if state_first:
                self._store_state()
            self._flush()
            try:
                store_checkpoint(self._attempt, report, self._attempt.folder / report.path)
            except FileNotFoundError:
                # The trainer keeps only its newest checkpoints, and deleted this one while earlier uploads were slow.
                log.info("checkpoint_replaced", job_id=self._attempt.job.id, step=report.step)
            self._checkpoints.popleft()
        self._store_state()
        self._failed = False

    def _store_state(self) -> None:
        if self._state.waits:
            self._flush()
            self._state.store(partial(store_state, self._attempt))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        except Exception:
            if error is None:
                raise
            log.exception("upload_failed")  # the error of the attempt says why it ended
        finally:
            self._executor.shutdown(cancel_futures=True)
            self._report_lost()

    def _report_lost(self) -> None:
        """Add an event that names the checkpoints that still wait. The run folder is about to be deleted."""
        if not self._checkpoints:
            return
        job, steps = self._attempt.job, ", ".join(str(report.step) for report in self._checkpoints)
        log.warning("checkpoints_lost", job_id=job.id, steps=steps)
        message = f"Checkpoints at these steps could not be stored, because the storage was unreachable: {steps}"
        with suppress(SQLAlchemyError, StaleFence), self._attempt.node.context.database.write() as session:
            jobs.lock_for_attempt(session, job.id, self._attempt.claim.fence)
            events.add_event(session, job.id, message, level="warn")


class WaitingState:
    """The newest saved state that is not stored yet. Its files are linked into a folder of their own, because the
    trainer deletes its older states while uploads are slow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)  # the steps of two states may be the same
        self._lock = threading.Lock()
        self._waiting: tuple[int, Path] | None = None
        """Step and folder."""

    @property
    def waits(self) -> bool:
        return self._waiting is not None

    def put(self, step: int, state: Path) -> None:
        """Replace the state that waits, if one does. A state that the trainer has deleted already is skipped."""
        try:
            linked = _link_files(state, self._folder / str(next(self._numbers)))
        except FileNotFoundError:
            log.info("state_replaced", step=step)
            return
        with self._lock:
            before, self._waiting = self._waiting, (step, linked)
        if before is not None:
            self._delete(before[1])

    def store(self, store: Callable[[int, Path], None]) -> None:
        """Call `store` with the step and the folder of the state that waits, if one does. If `store` fails, the state
        waits again, unless a newer one does."""
        with self._lock:
            taken, self._waiting = self._waiting, None
        if taken is None:
            return
        try:
            store(*taken)
        except FileNotFoundError:
            log.info("state_replaced", step=taken[0])
        except BaseException:
            if not self._put_back(taken):
                self._delete(taken[1])
            raise
        self._delete(taken[1])

    def _put_back(self, state: tuple[int, Path]) -> bool:
        """Let the state wait again. Return False if a newer one waits."""
        with self._lock:
            newest = self._waiting is None
            if newest:
                self._waiting = state
        return newest

    def _delete(self, state: Path) -> None:
        if state.is_relative_to(self._folder):  # otherwise it is the trainer's own folder, which the trainer deletes
            shutil.rmtree(state, ignore_errors=True)


def _link_files(state: Path, folder: Path) -> Path:
    """Return a new folder with hard links to the state's files, or the state's folder if the disk has no hard links."""
    try:
        folder.mkdir(parents=True)
        for file in state.iterdir():
            os.link(file, folder / file.name)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, FileNotFoundError):
            raise
        return state
    return folder
