"""`python -m worker.sample`: the sampler's child process, which answers the requests on standard input one by one.

It keeps one base model in memory and swaps adapters on it. It has no access to the database, the storage or any secret:
each request names its folders, and reports go to the pipe (docs/internals/sampling.md).
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
from worker.sampling.answer import RequestCancelled, answer
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.refused import RequestRefused
from worker.shared.hardware import cpu_multiplies_bfloat16
from worker.shared.pipe import Pipe
from worker.shared.reports import CancelledReport, CompleteReport, FailedReport, RefusedReport


class RequestQueue:
    """The requests in order of arrival. A thread reads them, so that a cancellation takes effect at once."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._requests: queue.SimpleQueue[SamplerJob | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def next(self) -> SamplerJob | None:
        """Wait for the next request and return it, or None after the last."""
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
        # The parent has exited or asks this process to stop. There is nothing to save, and no reader for more reports.
        os._exit(0)


class ModelServer:
    """Answers requests with the one base model that it keeps in memory."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._base: LoadedBase | None = None

    def serve(self, request: SamplerJob, pipe: Pipe, requests: RequestQueue) -> None:
        """Answer the request. The last report is done, refused, cancelled or failed."""

        adapter = None if request.adapter is None else Path(request.adapter)
        source = ModelSource(Path(request.base), adapter, request.technique)
        try:
            base = self._load(source)
            with base.model(source) as model:
                answer(request, base, model, pipe.report, cancelled=lambda: requests.cancelled(request.id))
            pipe.report(CompleteReport(id=request.id))
        except RequestRefused as refused:
            pipe.report(RefusedReport(id=request.id, message=refused.message, param=refused.param, code=refused.code))
        except RequestCancelled:
            pipe.report(CancelledReport(id=request.id))
        except Exception as error:  # any: the log gets the whole exception, the client a sentence
            traceback.print_exc()
            self._base = None  # an adapter may be half loaded, and memory may be short
            failure = as_training_error(error)
            message = failure.message if isinstance(error, TrainingError) else None
            pipe.report(FailedReport(id=request.id, reason=failure.reason.value, message=message))

    def _load(self, source: ModelSource) -> LoadedBase:
        if self._base is None or self._base.key != source.base_key:
            self._base = None  # freed before the next is loaded: two might not fit
            gc.collect()
            torch.cuda.empty_cache()
            self._base = LoadedBase(source, self._device, self._dtype)
        return self._base


def main() -> int:
    faulthandler.register(signal.SIGUSR1)
    pipe = Pipe()
    requests = RequestQueue(pipe)
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu or cpu_multiplies_bfloat16() else torch.float32
    server = ModelServer(torch.device("cuda" if gpu else "cpu"), dtype)
    while (request := requests.next()) is not None:
        server.serve(request, pipe, requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
