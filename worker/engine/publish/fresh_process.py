"""Scoring of files in a fresh process, before they are published.

The training changes this process: it patches libraries and keeps a model in memory, which could hide that the published
files are incomplete. A fresh process has only the files. It takes seconds to import torch: with ATTUNE_FRESH_PROOF=0,
which is for the tests, the files are scored in this process instead.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from api.spec.lifecycle import FailureReason
from api.spec.scoring import SCORING_REPLY, ScoringFailure, ScoringRequest, ScoringResult
from worker.engine.errors import TrainingError
from worker.engine.publish.outputs import Outputs, score

KEEP_ALIVE_S = 5.0
"""Seconds between two reports to the supervisor that the trainer works."""
TIMEOUT_S = 3600.0
"""No model takes so long to be scored. Without a limit, a process that hangs would hold the job for ever, since the
trainer reports itself alive while it waits."""
MMAP_THRESHOLD_BYTES = 2**20
"""Blocks above this size return to the system when the process frees them. glibc's heap keeps them otherwise: half a
gigabyte for DoRA on SmolLM2, whose magnitudes are computed from whole matrices (docs/engine-log.md)."""


class FileScores(NamedTuple):
    outputs: list[Outputs]
    """One item for each model of the request."""
    peak_bytes: int
    """The most memory that the fresh process held; 0 without one."""


def score_in_fresh_process(request: ScoringRequest, keep_alive: Callable[[], None]) -> FileScores:
    """Score the models of the request. Raises TrainingError if their files cannot be scored."""
    if os.environ.get("ATTUNE_FRESH_PROOF") == "0":
        return FileScores(score(request), peak_bytes=0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the other process lacks what this one's allocator keeps
    result = _run(request, keep_alive)
    outputs = [[torch.tensor(values) for values in rows] for rows in result.outputs]
    return FileScores(outputs, result.peak_bytes)


def environment() -> dict[str, str]:
    """Return the environment of the fresh process."""
    return {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD_BYTES), **os.environ}


def _run(request: ScoringRequest, keep_alive: Callable[[], None]) -> ScoringResult:
    command = [sys.executable, "-m", "worker.score_files"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            output = _communicate(process, request.model_dump_json(), keep_alive)
        except BaseException:
            process.kill()  # or leaving the block would wait for it
            raise
        print(f"parity: process {process.pid} scored the files", flush=True)
    if process.returncode == -signal.SIGKILL:  # by the kernel: nothing else here sends it
        raise TrainingError(FailureReason.OUT_OF_MEMORY, "Memory ran out while the files to publish were scored.")
    if process.returncode != 0:
        raise TrainingError(FailureReason.INTERNAL, "The files to publish could not be scored: nothing was published.")
    reply = SCORING_REPLY.validate_json(output.splitlines()[-1])
    if isinstance(reply, ScoringFailure):
        raise TrainingError(reply.reason, reply.message)
    return reply


def _communicate(process: subprocess.Popen[str], request: str, keep_alive: Callable[[], None]) -> str:
    """Send the request and return all that the process prints. Raises TrainingError (hung) after `TIMEOUT_S`."""
    unsent: str | None = request
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            return process.communicate(unsent, timeout=KEEP_ALIVE_S)[0]
        except subprocess.TimeoutExpired:
            unsent = None  # later calls of communicate() send the rest
            keep_alive()
    raise TrainingError(FailureReason.HUNG, "The files to publish were not scored in time: nothing was published.")
