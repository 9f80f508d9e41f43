"""The JSON of estimates: `estimate` in a job's row and `observed` in a worker's row."""

from typing import NotRequired, TypedDict


class StoredWorkload(TypedDict):
    """JSON of an api.estimate.work.Workload."""

    rows: int
    width: int
    tokens: int
    supervised: int
    lengths: list[int]


class StoredPrediction(TypedDict):
    """JSON of an api.estimate.machine_fields.Prediction."""

    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    trained_parameters: int
    memory: dict[str, int]
    """Bytes by part of api.estimate.memory.MemoryParts, and their `total`."""
    fits: bool | None
    training_s: float
    seconds: float
    measured: bool
    flops: float
    passes: float


class StoredMeasurement(TypedDict):
    """JSON of a worker.supervisor.estimates.Measured: the time and memory of a successful training."""

    seconds: float
    training_s: float
    peak_bytes: NotRequired[int]
    peaks: NotRequired[dict[str, int]]
    processor_s: NotRequired[dict[str, float]]
    device: NotRequired[str]


class StoredEstimate(TypedDict):
    """`estimate` of a job. Preparation writes `rows`; each attempt and the end of training add the other keys."""

    rows: dict[str, StoredWorkload]
    """The workloads `train` and, with validation data, `validation`."""
    predicted: NotRequired[StoredPrediction]
    less: NotRequired[dict[str, int | bool]]
    """Values that replace fields of the recipe in attempts after one that ran out of memory."""
    actual: NotRequired[StoredMeasurement | None]


class Observation(TypedDict):
    """The speed of one job that a worker trained from its beginning to its end."""

    precision: str
    flops: float
    passes: float
    training_s: float
    rest_s: float
    """Seconds of the phases before and after training: loading, export, verification."""
    parameters: int


class Observations(TypedDict):
    """`observed` of a worker: the measurements of its last jobs."""

    jobs: list[Observation]
