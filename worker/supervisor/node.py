"""One worker process: what it is called, what it has, and what it is doing."""

import fcntl
import os
import shutil
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from api.context import Context
from api.lifecycle import Stage
from worker.hardware import visible_gpus
from worker.supervisor.slots import Slot, Slots


@dataclass
class Node:
    context: Context
    stage: Stage
    owner: str
    """Stable over restarts: whoever holds the lock on the work folder is this worker."""
    folder: Path
    slots: Slots
    gpus: int
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: IO[bytes] | None = None

    @classmethod
    def open(cls, context: Context, stage: Stage) -> Self:
        """Lock a work folder (the first free one of this stage), and empty it of what a killed worker left there."""
        number, lock = lock_folder(context.settings.work, stage)
        folder = context.settings.work / f"{stage}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        gpus = visible_gpus() if stage is Stage.TRAIN else []
        node = cls(context, stage, f"{socket.gethostname()}:{folder}", folder, _slots(context, stage, gpus), len(gpus))
        node._lock = lock
        return node

    @property
    def cache(self) -> Path:
        """Base models, shared by all workers of this work folder."""
        return self.context.settings.work / "cache"

    def run_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def lock_folder(work: Path, stage: str) -> tuple[int, IO[bytes]]:
    """The number of the first folder of this stage that no other process holds, and the lock on it."""
    work.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        lock = (work / f"{stage}-{number}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            number += 1
            continue
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()
        return number, lock


def _slots(context: Context, stage: Stage, gpus: list[str]) -> Slots:
    settings = context.settings
    if stage is Stage.PREPARE:
        return Slots([Slot()] * settings.prepare_slots)
    count = settings.train_slots or max(1, len(gpus))
    return Slots([Slot(gpus[index] if index < len(gpus) else None) for index in range(count)])
