"""Calls in threads that end with the process.

The threads of a ThreadPoolExecutor are joined before a process ends. A request to a slow model would delay that by
minutes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from contextlib import suppress
from threading import Thread
from typing import Generic, TypeVar

Key = TypeVar("Key")
Result = TypeVar("Result")


class Calls(Generic[Key, Result]):
    """Calls that run at the same time, each with a key."""

    def __init__(self) -> None:
        self._running: dict[Future[Result], Key] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, key: Key, call: Callable[[], Result]) -> None:
        outcome: Future[Result] = Future()
        self._running[outcome] = key
        Thread(target=_run, args=(call, outcome), daemon=True).start()

    def next(self) -> tuple[Key, Future[Result]]:
        """Wait for a call to end, and return its key and its outcome."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        outcome = next(iter(done))
        return self._running.pop(outcome), outcome

    def rest(self, timeout_s: float | None) -> Iterator[tuple[Key, Future[Result]]]:
        """Yield the keys and outcomes of the running calls as they end, for `timeout_s` in all."""
        with suppress(TimeoutError):
            for outcome in as_completed(self._running, timeout_s):
                yield self._running[outcome], outcome


def _run(call: Callable[[], Result], outcome: Future[Result]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:  # the thread that asks for the outcome gets it
        outcome.set_exception(error)
