"""Slots: how many jobs of a stage a worker takes at once, and which GPU each of them has."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    gpu: str | None = None
    """The GPU that jobs in this slot see, as CUDA_VISIBLE_DEVICES names it; None on a machine without."""

    @property
    def gpus(self) -> int:
        return 0 if self.gpu is None else 1


class Slots:
    def __init__(self, slots: list[Slot]) -> None:
        self._lock = threading.Lock()
        self._free = deque(slots)
        self._missed = False
        self.count = len(slots)
        self.first = slots[0]

    @contextmanager
    def take(self) -> Iterator[Slot | None]:
        """A free slot, or None. Whoever gets None is remembered, so that a holder looks again (`missed`)."""
        with self._lock:
            slot = self._free.popleft() if self._free else None
            self._missed = self._missed or slot is None
        try:
            yield slot
        finally:
            if slot is not None:
                with self._lock:
                    self._free.append(slot)

    def missed(self) -> bool:
        """Whether somebody found no free slot since this was last asked."""
        with self._lock:
            missed, self._missed = self._missed, False
        return missed
