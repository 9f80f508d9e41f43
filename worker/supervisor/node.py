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
from api.infra.storage import StorageUnavailable
from api.spec.lifecycle import FAILURES, FailureReason, Stage
from worker.shared.gpus import visible_gpus
from worker.supervisor.pause import Pause
from worker.supervisor.slots import Slot, Slots
from worker.supervisor.visibility import Visibility
from worker.supervisor.work_folder import identity_of, trouble_with

MAX_HOST = 64
"""Letters of the host's name in a worker's name, which operators read in logs and in the database."""


@dataclass
class Node:
    context: Context
    stage: Stage
    owner: str
    """Stable over restarts: whoever holds the lock on the work folder is this worker, and its id lies there."""
    folder: Path
    lock: IO[bytes]
    slots: Slots
    gpu_names: list[str]
    """As CUDA_VISIBLE_DEVICES names them."""
    stopping: threading.Event = field(default_factory=threading.Event)
    scanning: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one thread that scans files."""

    def __post_init__(self) -> None:
        self.hold = Pause(self.trouble)
        self.watch = Visibility(self.context.settings.lease_s)

    @classmethod
    def open(cls, context: Context, stage: Stage) -> Self:
        """In the first work folder of this stage that is free, emptied of what a killed worker left there."""
        owner, folder, lock = claim_work_dir(context.settings.work, stage)
        gpus = visible_gpus() if stage is Stage.TRAIN else []
        return cls(context, stage, owner, folder, lock, _slots(context, stage, gpus), gpus)

    @property
    def gpus(self) -> int:
        return len(self.gpu_names)

    @property
    def cache(self) -> Path:
        """Base models, shared by all workers of this work folder."""
        return self.context.settings.work / "cache"

    def trouble(self, thorough: bool = True) -> str | None:
        """Name what keeps this worker from working on any job, or return None. thorough: try it out."""
        found = trouble_with(self.folder, self.lock, thorough=thorough)
        if found is None and thorough:
            try:
                self.context.storage.probe()
            except StorageUnavailable:
                found = FAILURES[FailureReason.STORAGE_UNAVAILABLE].sentence
        return found

    def run_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def claim_work_dir(work: Path, stage: str) -> tuple[str, Path, IO[bytes]]:
    """Who this process is from now on, its folder, emptied, and the lock on that: the first that nobody else holds."""
    number, lock = _lock(work, stage)
    folder = work / f"{stage}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    identity = identity_of(work / f"{stage}-{number}.id")  # host and path alone may be those of a twin machine
    return f"{socket.gethostname()[:MAX_HOST]}:{stage}-{number}:{identity}", folder, lock


def _lock(work: Path, stage: str) -> tuple[int, IO[bytes]]:
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
