"""A thread for work that runs beside the training loop."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one function at a time in a thread. If the function raises an error, the next call of any method of this
    class raises it again."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: Future[None] | None = None

    def start(self, act: Callable[[], None]) -> None:
        """Wait until the previous function has ended, then start `act` in the thread."""
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
