"""How much memory a process takes while something happens."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Resident:
    """Bytes."""

    idle: int
    peak: int

    @property
    def grown(self) -> int:
        return self.peak - self.idle

    def __str__(self) -> str:
        return f"resident: {self.idle / 2**20:.0f} MiB idle, {self.peak / 2**20:.0f} MiB at most"


@contextmanager
def watched(process: psutil.Process) -> Iterator[Resident]:
    idle = process.memory_info().rss
    resident, done = Resident(idle, idle), threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            resident.peak = max(resident.peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield resident
    finally:
        done.set()
        watcher.join()
