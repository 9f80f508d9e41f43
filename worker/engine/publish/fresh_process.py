"""Scoring of files in a fresh process, before they are published.

The training changes this process: it patches libraries and keeps a model in memory, which could hide that the published
files are incomplete. The scorer, a process of its own, has only the files. The trainer forks the scorer before it does
anything else, because a new Python takes seconds to import torch. With ATTUNE_FRESH_PROOF=0, which is for tests that
train in their own process, the files are scored in this process instead.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, SpawnContext
from typing import NamedTuple

import torch
from setproctitle import setproctitle

from api.spec.lifecycle import FailureReason
from api.spec.scoring import SCORING_REPLY, ScoringFailure, ScoringRequest, ScoringResult
from worker.engine.errors import TrainingError
from worker.engine.memory.heap import return_freed_blocks
from worker.engine.publish.outputs import Outputs, reply_to, score

KEEP_ALIVE_S = 5.0
"""Seconds between the trainer's reports to the supervisor that it is alive."""
TIMEOUT_S = 3600.0
"""Time limit of a request, in seconds. Scoring takes far less for any model. Without a limit, a scorer that hangs would
hold the job for ever, since the trainer reports itself alive while it waits."""


class FileScores(NamedTuple):
    outputs: list[Outputs]
    """One item for each model of the request."""
    peak_bytes: int
    """The most memory that the scorer held, in bytes; 0 if the files were scored in this process."""


class Scorer:
    """A process that waits for one request. If no request comes, the process ends with the trainer."""

    def __init__(self, context: ForkContext | SpawnContext) -> None:
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self._connection), daemon=True)
        self.process.start()
        theirs.close()

    def score(self, request: ScoringRequest, keep_alive: Callable[[], None]) -> bytes | None:
        """Return the reply, or None if the process ended without one. Raises TrainingError (hung) after `TIMEOUT_S`."""
        deadline = time.monotonic() + TIMEOUT_S
        try:
            self._connection.send_bytes(request.model_dump_json().encode())
            while not self._connection.poll(KEEP_ALIVE_S):
                keep_alive()
                if time.monotonic() > deadline:
                    message = "The check of the exported files did not end in time, so nothing was published."
                    raise TrainingError(FailureReason.HUNG, message)
            return self._connection.recv_bytes()
        except (EOFError, ConnectionError):
            return None
        finally:
            self.process.kill()
            self.process.join()
            self._connection.close()


_forked: list[Scorer] = []
"""The trainer's scorer, if it could be forked."""


def fork_scorer() -> None:
    """Fork the scorer, unless this process has threads or uses a GPU: neither works in a forked process."""
    if threading.active_count() == 1 and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _forked.append(Scorer(multiprocessing.get_context("fork")))


def score_in_fresh_process(request: ScoringRequest, keep_alive: Callable[[], None]) -> FileScores:
    """Score the models of the request. Raises TrainingError if their files cannot be scored."""
    if os.environ.get("ATTUNE_FRESH_PROOF") == "0":
        return FileScores(score(request), peak_bytes=0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the scorer cannot use memory that this process's allocator keeps
    result = _result(request, keep_alive)
    outputs = [[torch.tensor(values) for values in rows] for rows in result.outputs]
    return FileScores(outputs, result.peak_bytes)


def _result(request: ScoringRequest, keep_alive: Callable[[], None]) -> ScoringResult:
    scorer = _forked.pop() if _forked else None
    if scorer is None or not scorer.process.is_alive():
        scorer = Scorer(multiprocessing.get_context("spawn"))
    answer = scorer.score(request, keep_alive)
    print(f"parity: process {scorer.process.pid} scored the files", flush=True)
    if answer is None:
        if scorer.process.exitcode == -signal.SIGKILL:  # sent by the kernel, since nothing else sends it
            raise TrainingError(FailureReason.OUT_OF_MEMORY, "Memory ran out while the exported files were checked.")
        message = "The exported files could not be checked, so nothing was published."
        raise TrainingError(FailureReason.INTERNAL, message)
    reply = SCORING_REPLY.validate_json(answer)
    if isinstance(reply, ScoringFailure):
        raise TrainingError(reply.reason, reply.message)
    return reply


def _serve(connection: Connection, trainers: Connection) -> None:
    """Run the scorer: receive one request and send the reply. `trainers` is the trainer's end of the connection, which
    a forked process inherits."""
    trainers.close()  # else this process would not see that the trainer has ended
    setproctitle(f"{sys.executable} -m worker.score_files")
    return_freed_blocks()
    try:
        request = connection.recv_bytes()
    except EOFError:
        return
    connection.send_bytes(reply_to(ScoringRequest.model_validate_json(request)).model_dump_json().encode())
