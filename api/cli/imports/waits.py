"""Waits between requests to a server, which hold for all threads that send them."""

import threading
import time

from api.cli.errors import CommandError, ExitCode


class Waits:
    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._silent_until = 0.0
        """Time, by the monotonic clock, until which the server wants no requests."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep. Raise CommandError when the command ends."""
        self._stopped.wait(seconds)
        self.raise_if_stopped()

    def stop(self) -> None:
        """End all waits, now and later, because the command ends."""
        self._stopped.set()

    def raise_if_stopped(self) -> None:
        """Raise CommandError if the command ends."""
        if self._stopped.is_set():
            raise CommandError(ExitCode.INTERRUPTED, "the command ends.")

    def begin_silence(self, seconds: float) -> None:
        """Let no thread send a request for `seconds`. A silence that lasts longer remains."""
        with self._lock:
            self._silent_until = max(self._silent_until, self.now() + seconds)

    def await_silence_end(self) -> None:
        while (seconds := self._silent_until - self.now()) > 0:  # another thread may have begun a longer silence
            self.sleep(seconds)
