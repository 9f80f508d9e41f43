"""A value that is costly to compute, kept for a short time and shared by all requests in that time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._value: T | None = None
        self._made_at = 0.0

    def get(self, make: Callable[[], T], suits: Callable[[T], bool] = lambda _: True) -> T:
        """Return the kept value if it is new enough and suits the caller; otherwise make and keep a new one."""
        with self._lock:
            now = time.monotonic()
            if self._value is None or now - self._made_at > self._keep_s or not suits(self._value):
                self._value, self._made_at = make(), now
            return self._value
