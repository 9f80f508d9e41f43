"""One worker process: its identity, its resources and its state."""

import fcntl
import os
import shutil
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.infra.child_environment import usable_cores
from api.infra.child_process import ForkServer, fork_server
from api.infra.storage import Storage, StorageUnavailable
from api.records import installation
from api.records.installation import MARKER
from api.spec.lifecycle import FAILURES, FailureReason, Stage
from worker.shared.gpus import visible_gpus
from worker.supervisor.child import Child
from worker.supervisor.pause import Pause
from worker.supervisor.slots import Slot, Slots
from worker.supervisor.visibility import Visibility
from worker.supervisor.work_folder import find_folder_problem, read_or_create_id

PROGRAMS = {Stage.PREPARE: ("worker.prepare", "worker.scan"), Stage.TRAIN: ("worker.train",)}
"""Programs of the child processes of each stage."""
LIBRARIES = ("torch._dynamo", "torch._inductor", "transformers.modeling_utils")
"""Modules that a trainer imports and that do not start CUDA, for the fork server of a machine with GPUs. bitsandbytes
is left out, because it starts CUDA."""
MAX_HOST = 64
"""Maximum number of characters of the host's name in `owner`."""


@dataclass
class Node:
    context: Context
    stage: Stage
    owner: str
    """The worker's name in logs and the database: host, folder and an id. It survives restarts, because the id is
    stored beside the folder."""
    folder: Path
    lock: IO[bytes]
    """An open file beside the folder, locked as long as this process runs."""
    slots: Slots
    gpu_names: list[str]
    """The worker's GPUs by their names in CUDA_VISIBLE_DEVICES."""
    threads: int | None = None
    """OpenMP threads of each child. None: one for each core."""
    fork_server: ForkServer | None = None
    """Starts this worker's children. None if the settings disable it: each child is then a new Python process."""
    stopping: threading.Event = field(default_factory=threading.Event)
    scanning: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that scans files, so that only one thread does."""

    def __post_init__(self) -> None:
        self.pause = Pause(self.find_problem)
        self.visibility = Visibility(self.context.settings.lease_s)

    @classmethod
    def open(cls, context: Context, stage: Stage) -> Self:
        """Open a worker in the first free work folder of this stage. Files that a killed worker left there are
        deleted."""
        owner, folder, lock = claim_work_dir(context.settings.work, stage)
        gpus = visible_gpus() if stage is Stage.TRAIN else []
        slots = _slots(context, stage, gpus)
        # The trainers of all slots share the cores. More threads than cores would only wait for each other.
        threads = max(1, usable_cores() // slots.count) if stage is Stage.TRAIN else None
        server = None
        if context.settings.fork_server:
            server = fork_server(*(LIBRARIES if gpus else PROGRAMS[stage]), threads=threads, may_borrow=not gpus)
        return cls(context, stage, owner, folder, lock, slots, gpus, threads, server)

    @property
    def gpus(self) -> int:
        return len(self.gpu_names)

    @property
    def storage(self) -> Storage:
        """The storage from which attempts fetch their files. Its reads end when the worker shuts down."""
        return self.context.storage.reading_until(self.stopping)

    @property
    def cache(self) -> Path:
        """The folder of base models, shared by all workers with the same `work` setting."""
        return self.context.settings.work / "cache"

    def find_problem(self, thorough: bool = True) -> str | None:
        """Return why this worker cannot work on any job, or None. `thorough`: also test whether disk and storage can be
        written, and whether the storage lacks its marker: then it is empty, or another one."""
        problem = find_folder_problem(self.folder, self.lock, thorough=thorough)
        if problem is None and thorough:
            try:
                self.context.storage.probe()
                if self._has_storage_id() and not self.context.storage.exists(MARKER):
                    problem = f"The object storage has lost its objects, or is another one: it lacks '{MARKER}'"
            except StorageUnavailable:
                problem = FAILURES[FailureReason.STORAGE_UNAVAILABLE].sentence
        return problem

    def _has_storage_id(self) -> bool:
        """Return whether the database names its storage. False if the database does not answer."""
        try:
            with self.context.database.read() as session:
                return installation.storage_id(session) is not None
        except SQLAlchemyError:
            return False

    def start_child(self, program: str, folder: Path, *, gpu: str | None = None) -> Child:
        """Start the child `program FOLDER`. Its output is appended to the folder's log.txt."""
        log_file = folder / "log.txt"
        return Child(program, str(folder), gpu=gpu, log_file=log_file, threads=self.threads, server=self.fork_server)


def claim_work_dir(work: Path, stage: str) -> tuple[str, Path, IO[bytes]]:
    """Lock the first folder of this stage that no other process has locked, and empty it.

    Returns the owner's name, the folder and the lock.
    """
    number, lock = _lock(work, stage)
    folder = work / f"{stage}-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    # Host and path are not enough: a cloned machine has the same host name and path.
    worker_id = read_or_create_id(work / f"{stage}-{number}.id")
    return f"{socket.gethostname()[:MAX_HOST]}:{stage}-{number}:{worker_id}", folder, lock


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
