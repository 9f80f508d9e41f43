"""Files that are about to be published, read by a fresh process: nothing that the training did to this one, to its
libraries or its model can hide that they are not whole.

A fresh process imports torch, which takes seconds: ATTUNE_FRESH_PROOF=0 reads the files in this process instead. It is
for the tests, which train hundreds of times.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel

from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from worker.engine.errors import TrainingError
from worker.engine.publish.parity import Outputs, said_by_files, said_by_merged
from worker.shared.arrays import Rows

ALIVE_S = 5.0
LONGEST_S = 3600.0
"""No model takes so long to be read. Without an end to it a reader that hangs would hold the job for ever: who waits
for it says that this process is alive."""
MAPPED_BYTES = 2**20
"""Blocks above this size return to the system when the reader frees them. glibc's heap keeps them otherwise: half a
gigabyte for DoRA on SmolLM2, whose magnitudes are computed from whole matrices (docs/engine-log.md)."""


class Request(BaseModel):
    folder: str
    merged: str | None
    base: str
    recipe: dict[str, Any]
    rows: list[list[int]]
    """Tokens."""
    device: str

    def as_rows(self) -> Rows:
        ends = np.cumsum([len(row) for row in self.rows])
        tokens = np.concatenate(self.rows).astype(np.int32)
        return Rows(tokens, np.ones(len(tokens), np.float32), np.concatenate([[0], ends[:-1]]), ends)


class Reread(NamedTuple):
    files: Outputs
    merged: Outputs | None
    peak_bytes: int
    """The most that the other process held; 0 without one."""


def reread(
    folder: Path,
    merged: Path | None,
    base: Path,
    recipe: ResolvedRecipe,
    rows: Rows,
    device: torch.device,
    alive: Callable[[], None],
) -> Reread:
    """What the published files say. Raises TrainingError if they cannot be read."""
    if os.environ.get("ATTUNE_FRESH_PROOF") == "0":
        of_merged = None if merged is None else said_by_merged(merged, recipe, rows, device)
        return Reread(said_by_files(folder, base, recipe, rows, device), of_merged, 0)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what this process keeps for itself, the other one lacks
    request = Request(
        folder=str(folder),
        merged=None if merged is None else str(merged),
        base=str(base.resolve()),
        recipe=recipe.model_dump(mode="json"),
        rows=[tokens_T.tolist() for tokens_T, _ in rows],
        device=str(device),
    )
    found = _asked(request, alive)
    if "said" not in found:
        raise TrainingError(FailureReason(found["reason"]), found["message"])
    said = [[torch.tensor(row) for row in each] for each in found["said"]]
    return Reread(said[0], said[1] if merged is not None else None, found["peak_bytes"])


def environment() -> dict[str, str]:
    """The reader's."""
    return {"MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES), **os.environ}


def _asked(request: Request, alive: Callable[[], None]) -> dict[str, Any]:
    command = [sys.executable, "-m", "worker.score_files"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as reader:
        try:
            told = _told(reader, request.model_dump_json(), alive)
        except BaseException:
            reader.kill()  # or leaving it would wait for it
            raise
        print(f"proof: the files were read by process {reader.pid}", flush=True)
    if reader.returncode == -signal.SIGKILL:  # nobody else kills it
        raise TrainingError(FailureReason.OUT_OF_MEMORY, "Memory ran out while the files to publish were read.")
    if reader.returncode != 0:
        raise TrainingError(FailureReason.INTERNAL, "The files to publish could not be read, so nothing was published.")
    answer: dict[str, Any] = json.loads(told.splitlines()[-1])
    return answer


def _told(reader: subprocess.Popen[str], request: str, alive: Callable[[], None]) -> str:
    """All that it prints until it ends. Raises TrainingError when it does not."""
    text: str | None = request
    give_up_at = time.monotonic() + LONGEST_S
    while time.monotonic() < give_up_at:
        try:
            return reader.communicate(text, timeout=ALIVE_S)[0]
        except subprocess.TimeoutExpired:
            text = None  # it is on its way
            alive()
    raise TrainingError(FailureReason.HUNG, "The files to publish were not read in time, so nothing was published.")
