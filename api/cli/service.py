"""`python -m api.cli.service MODULE ARGUMENTS…` runs `python -m MODULE ARGUMENTS…` as a service, which ends with its
parent.

The services of one machine consist of the same libraries. `preloaded` starts a process that imports them once. Services
that are forked from it start in a fifth of the processor time, and share the memory of the libraries.
"""

import atexit
import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Container, Iterable
from shutil import which

from setproctitle import setproctitle

from api.infra.child_process import ForkServer
from api.settings import Settings
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage

API = "api"
COMMANDS: dict[str, tuple[str, ...]] = {
    API: ("api.cli", "api"),
    BATCH: ("api.batch_worker",),
    EVALUATE: ("api.eval_worker",),
    **{stage: ("worker", stage) for stage in (*Stage, SAMPLE, DELIVER)},
}
"""Module and arguments of each service."""
LIBRARIES: dict[str, tuple[str, ...]] = {
    API: ("api.cli.serve", "api.main", "api.routes"),
    BATCH: ("api.background.worker", "api.batch_worker.worker"),
    EVALUATE: ("api.background.worker", "api.eval_worker.worker"),
    DELIVER: ("worker.delivery.app",),
    SAMPLE: ("worker.supervisor.sample",),
    **dict.fromkeys(Stage, ("worker.app", "celery.bin.celery")),
}
"""Modules that each service imports before it begins its work."""
LISTENER = "ATTUNE_LISTENER"
"""Environment variable with the number of the file descriptor of the socket on which the API listens. Unset: the API
opens a socket itself."""
_PR_SET_PDEATHSIG = 1


def preloaded(services: Iterable[str]) -> ForkServer:
    """Return a fork server that has imported the modules of these services. It ends with this process."""
    modules = dict.fromkeys(module for service in services for module in LIBRARIES[service])
    # With the other variable, Celery does not change the name that ps shows for a worker. It reads it on import.
    # A fork server ignores SIGTERM. At its end, the kernel sends that to the services.
    return ForkServer(f"{__name__}:{signal.SIGKILL.name}", *modules, environment={**os.environ, "NOSETPS": "1"})


def shared_server(settings: Settings, services: Container[str]) -> ForkServer | None:
    """Return one fork server for trainers and the sampler's child, which import the same libraries; None if they need
    two, because they use a GPU or different numbers of threads, or none."""
    has_gpu = which("nvidia-smi") is not None or os.environ.get("CUDA_VISIBLE_DEVICES")
    if has_gpu or settings.train_slots > 1 or Stage.TRAIN not in services or SAMPLE not in services:
        return None
    return ForkServer("worker.train", "worker.sample", threads=os.cpu_count())


def prepare(signal_name: str) -> None:
    """End this process, the fork server of services, by this signal when its parent ends."""
    signal_at_parents_end(signal.Signals[signal_name])


def main(module: str, *arguments: str) -> int:
    signal_at_parents_end(signal.SIGTERM)
    setproctitle(" ".join([sys.executable, "-m", module, *arguments]))
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
    return 0


def signal_at_parents_end(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when its parent ends, even if the parent is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
