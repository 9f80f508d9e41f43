"""Storage of states and checkpoints by a thread of its own, while another thread handles the trainer's reports."""

import itertools
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Seconds between checks of whether the attempt still owns the job."""


class Uploads:
    """A context manager. Uploads run one after the other, in the order in which they were added. The end of the context
    waits for them, unless the attempt no longer owns the job."""

    def __init__(self, job_id: str, lost: threading.Event) -> None:
        """`lost`: set once the attempt no longer owns the job."""
        self._lost = lost
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"uploads-{job_id}")
        self._waiting: deque[Future[None]] = deque()

    def add(self, upload: Callable[[], None]) -> None:
        self._waiting.append(self._executor.submit(upload))

    def check(self) -> None:
        """Raise the error of an upload, if one has failed."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all uploads have ended or the attempt no longer owns the job. Raise the error of an upload, if one
        has failed."""
        while self._waiting and not self._lost.is_set():
            wait([self._waiting[0]], timeout=LOOK_S)
            self.check()

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


class WaitingState:
    """The newest saved state that is not stored yet. Its files are linked into a folder of their own, because the
    trainer deletes its older states while uploads are slow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)  # the steps of two states may be the same
        self._lock = threading.Lock()
        self._waiting: tuple[int, Path] | None = None
        """Step and folder."""

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
