"""Work beside the training loop, in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one act (a function without a result) at a time, in a thread. An act's error is raised by the next call of
    any method."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    def start(self, act: Callable[[], None]) -> None:
        """Wait until the previous act has ended, and start this one in the thread."""
        self.wait()
        self._running = self._executor.submit(act)

    def idle(self) -> bool:
        if self._running is not None and self._running.done():
            self.wait()
        return self._running is None

    def wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()
