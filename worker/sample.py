"""`python -m worker.sample`: the sampler's child process, which answers the requests on standard input.

It keeps one base model in memory and swaps adapters on it. It has no access to the database, the storage or any secret:
each request names the folders of its model, and reports go to the pipe (docs/internals/sampling.md).
"""

import faulthandler
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator

import worker.engine.openmp  # noqa: F401  (before torch)

# isort: split
import torch

from api.spec.sampling import SamplerJob
from worker.engine.model.device import device_of_process
from worker.sampling.bases import LoadedBase
from worker.sampling.server import SamplingServer
from worker.shared.hardware import cpu_multiplies_bfloat16
from worker.shared.pipe import Pipe


class RequestQueue:
    """The requests in order of arrival. A thread reads commands while answers are generated, so that a cancellation
    takes effect at once."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._requests: queue.SimpleQueue[SamplerJob] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def take(self, *, wait: bool) -> Iterator[SamplerJob]:
        """Yield the requests that have arrived. `wait`: if there are none, wait for one."""
        if wait:
            yield self._requests.get()
        while not self._requests.empty():
            yield self._requests.get()

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
        # The parent has exited or asks this process to stop. There is nothing to save, and nobody reads more reports.
        os._exit(0)


def main(places: str = "16", cache_tokens: str = "16384") -> int:
    """`places`: maximum number of answers that are generated at once. `cache_tokens`: maximum number of tokens in the
    cache of keys and values."""
    faulthandler.register(signal.SIGUSR1)
    pipe = Pipe()
    requests = RequestQueue(pipe)
    device = device_of_process()
    dtype = torch.bfloat16 if device.type == "cuda" or cpu_multiplies_bfloat16() else torch.float32
    server = SamplingServer(
        lambda source: LoadedBase(source, device, dtype),
        pipe.report,
        cancelled=requests.cancelled,
        places=int(places),
        cache_tokens=int(cache_tokens),
    )
    while not server.broken:
        for request in requests.take(wait=server.idle):
            server.submit(request)
        server.step()
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
