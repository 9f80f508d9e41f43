"""Worker processes, as operators and waiting users see them."""

from collections.abc import Sequence
from typing import Literal, Self, cast

from pydantic import BaseModel

from api.infra.beats import SeenProcess
from api.schemas.common import seconds
from api.services.workers import WorkerView


class Work(BaseModel):
    """The work of a busy slot."""

    kind: Literal["prepare", "train", "scan"]
    """`prepare`: reads a job's files; `train`: trains a job; `scan`: checks an uploaded file."""
    job_id: str | None
    """Id of the job; null for a file's scan, and for a job of another project."""
    since: int | None


Kind = Literal["prepare", "train", "sample", "batch", "evaluate", "deliver"]
Status = Literal["idle", "busy", "paused", "stopped", "lost"]


class WorkerObject(BaseModel):
    id: str
    object: Literal["worker"] = "worker"
    host: str
    stages: list[Kind]
    """Kinds of work that the worker takes. `prepare` and `train` take jobs; `sample` answers requests to models;
    `batch` sends the requests of batches to `sample` workers; `evaluate` grades the items of evals; `deliver` sends
    webhooks, metrics and models to other servers."""
    status: Status
    """`paused`: the worker takes no work for now, for `paused_reason`; `stopped`: it was shut down in order; `lost`: it
    has not reported for two minutes, or for 15 s if it takes no jobs."""
    alive: bool
    paused_reason: str | None
    slots: int
    """Number of jobs, requests or deliveries that the worker can work on at once."""
    answering: int | None
    """Number of requests that the worker works on now; null for `prepare`, `train` and `deliver`."""
    busy: list[Work]
    """The worker's jobs: one object for each busy slot, and one more while the worker scans a file, which takes no
    slot."""
    device: str | None
    """Model of the worker's first GPU, or of its processor if it has no GPU."""
    gpus: int
    gpu_memory_bytes: int | None
    """Memory of the worker's smallest GPU."""
    memory_bytes: int | None
    """Main memory for each job."""
    version: str | None
    started_at: int | None
    last_beat_at: int
    """Time of the worker's last report. A worker reports every 15 s (`ATTUNE_SWEEP_S`), or every 5 s if it takes no
    jobs."""
    clock_ahead_s: float | None
    """Seconds by which the worker's clock was ahead of the database's at its last report, or of the broker's if it
    takes no jobs. Null for a worker of a release without this field."""

    @classmethod
    def of(cls, view: WorkerView) -> Self:
        worker = view.worker
        busy = [
            Work(
                kind=lease.stage.value,
                job_id=lease.job_id if lease.project_id == view.caller.project_id else None,
                since=seconds(lease.since),
            )
            for lease in view.leases
        ]
        if worker.scanning and view.alive:
            busy.append(Work(kind="scan", job_id=None, since=None))
        return cls(
            id=worker.owner,
            host=worker.host,
            stages=[cast(Kind, worker.stage)],
            status=_status(view, busy=bool(busy)),
            alive=view.alive,
            paused_reason=worker.held if view.alive else None,
            slots=worker.slots,
            answering=None,
            busy=busy,
            device=worker.device,
            gpus=worker.gpus,
            gpu_memory_bytes=worker.gpu_memory_bytes,
            memory_bytes=worker.memory_bytes,
            version=worker.version,
            started_at=seconds(worker.started_at),
            last_beat_at=int(worker.seen_at),
            clock_ahead_s=_rounded(worker.clock_ahead_s),
        )

    @classmethod
    def of_process(cls, process: SeenProcess) -> Self:
        """Return the object of a worker process that takes no jobs."""
        ended: Status = "stopped" if process.stopped else "lost"
        facts = process.model_dump(include={"slots", "answering", "device", "gpus", "gpu_memory_bytes", "memory_bytes"})
        return cls(
            id=process.owner,
            host=process.owner.partition(":")[0],
            stages=[cast(Kind, process.stage)],
            status=("busy" if process.answering else "idle") if process.alive else ended,
            alive=process.alive,
            paused_reason=None,
            busy=[],
            version=process.version,
            started_at=seconds(process.started_at),
            last_beat_at=int(process.beat_at),
            clock_ahead_s=_rounded(process.clock_ahead_s),
            **facts,
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _status(view: WorkerView, *, busy: bool) -> Status:
    if not view.alive:
        return "lost" if view.worker.stopped_at is None else "stopped"
    if view.worker.held is not None:
        return "paused"
    return "busy" if busy else "idle"


class WorkerList(BaseModel):
    object: Literal["list"] = "list"
    data: list[WorkerObject]
    has_more: Literal[False] = False

    @classmethod
    def of(cls, views: Sequence[WorkerView], processes: Sequence[SeenProcess]) -> Self:
        listed = [*map(WorkerObject.of, views), *map(WorkerObject.of_process, processes)]
        return cls(data=sorted(listed, key=lambda worker: not worker.alive))
