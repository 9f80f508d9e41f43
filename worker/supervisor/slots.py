"""Slots: how many jobs of its stage a worker runs at once, and the GPU of each."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    gpu: str | None = None
    """The only GPU that jobs in this slot see, as CUDA_VISIBLE_DEVICES names it; None: no GPU."""

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
        """Yield a free slot, or None if there is none. In that case, `missed` tells a thread that holds a slot to look
        for jobs once more."""
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
        """Return whether, since the last call, a thread found no free slot."""
        with self._lock:
            missed, self._missed = self._missed, False
        return missed
