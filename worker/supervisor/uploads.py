"""The thread that stores states and checkpoints, while the trainer's reports are handled."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

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
        finally:
            self._executor.shutdown(cancel_futures=True)
