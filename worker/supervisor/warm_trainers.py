"""Trainers that wait with torch imported, so that a claimed job starts to train seconds earlier."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from worker.supervisor.child import Child
from worker.supervisor.node import Node
from worker.supervisor.slots import Slot


class WarmTrainers:
    """At most one for each slot. A trainer serves one job; when it is taken, the next one is started."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._waiting: dict[Slot, Child] = {}
        self._numbers = itertools.count()
        self._closed = False

    @contextmanager
    def take(self, slot: Slot) -> Iterator[Child]:
        """Take this slot's trainer. It is killed when the context ends."""
        with self._lock:
            trainer = self._waiting.pop(slot, None)
        if trainer is None or not trainer.alive:
            trainer = self._start(slot)
        waiting_log = trainer.log_file
        try:
            self.warm_up(slot)
            yield trainer
        finally:
            trainer.kill()
            waiting_log.unlink(missing_ok=True)

    def warm_up(self, slot: Slot) -> None:
        """Start a trainer for the slot's next job, if the settings ask for that."""
        with self._lock:
            wanted = self._node.context.settings.warm_trainers and not self._closed
            if wanted and slot not in self._waiting:
                self._waiting[slot] = self._start(slot)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for trainer in self._waiting.values():
                trainer.kill()
            self._waiting.clear()

    def _start(self, slot: Slot) -> Child:
        log_file = self._node.folder / f"trainer-{next(self._numbers)}.log"
        # The trainers of all slots share the cores. More threads than cores would only wait for each other.
        threads = max(1, (os.cpu_count() or 1) // self._node.slots.count)
        return Child("worker.train", "--wait", gpu=slot.gpu, log_file=log_file, threads=threads)
