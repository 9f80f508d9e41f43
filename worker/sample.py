"""The sampler, behind the wall: `python -m worker.sample` answers what stands on stdin, one request after the other.

It keeps one base model in memory and swaps adapters on it. It knows no database, no storage and no secret: folders come
with each request, reports go to the pipe (docs/internals/sampling.md).
"""

import faulthandler
import gc
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
import torch

from api.spec.sampling import SamplerJob
from worker.engine.errors import TrainingError, as_training_error
from worker.sampling.answer import Cancelled, Refused, answer
from worker.sampling.bases import Base, Tuned
from worker.shared.hardware import cpu_multiplies_bfloat16
from worker.shared.pipe import Pipe
from worker.shared.reports import CancelledReport, CompleteReport, FailedReport, RefusedReport


class Inbox:
    """Requests in their order; what is cancelled is known at once."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._requests: queue.SimpleQueue[SamplerJob | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next(self) -> SamplerJob | None:
        """None: there will be no more."""
        return self._requests.get()

    def cancelled(self, request_id: str) -> bool:
        return request_id in self._cancelled

    def _read(self) -> None:
        for command in self._pipe.commands():
            if command.get("cmd") == "sample":
                self._requests.put(SamplerJob.model_validate(command["request"]))
            elif command.get("cmd") == "cancel":
                self._cancelled.add(str(command["id"]))
            elif command.get("cmd") == "stop":
                break
        self._requests.put(None)
        # The parent is gone or wants us gone. There is nothing to save, and what we do now nobody reads.
        os._exit(0)


class Sampler:
    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._base: Base | None = None

    def serve(self, request: SamplerJob, pipe: Pipe, inbox: Inbox) -> None:
        """Whatever comes of it, one last report: done, refused, cancelled or failed."""

        tuned = Tuned(
            Path(request.base), Path(request.adapter) if request.adapter is not None else None, request.technique
        )
        try:
            base = self._loaded(tuned)
            with base.model(tuned) as model:
                answer(request, base, model, pipe.report, cancelled=lambda: inbox.cancelled(request.id))
            pipe.report(CompleteReport(id=request.id))
        except Refused as refused:
            pipe.report(RefusedReport(id=request.id, message=refused.message, param=refused.param, code=refused.code))
        except Cancelled:
            pipe.report(CancelledReport(id=request.id))
        except Exception as error:  # whatever it was: the log gets all of it, the caller a sentence
            traceback.print_exc()
            self._base = None  # an adapter may be half loaded, and memory is wanted
            failure = as_training_error(error)
            message = failure.message if isinstance(error, TrainingError) else None
            pipe.report(FailedReport(id=request.id, reason=failure.reason.value, message=message))

    def _loaded(self, tuned: Tuned) -> Base:
        if self._base is None or self._base.weights != tuned.weights:
            self._base = None  # before the next is loaded: two might not fit
            gc.collect()
            torch.cuda.empty_cache()
            self._base = Base(tuned, self._device, self._dtype)
        return self._base


def main() -> int:
    faulthandler.register(signal.SIGUSR1)
    pipe = Pipe()
    inbox = Inbox(pipe)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu or cpu_multiplies_bfloat16() else torch.float32
    sampler = Sampler(torch.device("cuda" if gpu else "cpu"), dtype)
    while (request := inbox.next()) is not None:
        sampler.serve(request, pipe, inbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
