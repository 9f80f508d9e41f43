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

from api.infra.child_environment import usable_cores
from api.infra.child_process import ForkServer
from api.settings import Settings
from api.spec.fork_request import PARENT
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage

API = "api"
COMMANDS: dict[str, tuple[str, ...]] = {
    API: ("api.cli", "api"),
    BATCH: ("api.batch_worker",),
    EVALUATE: ("api.eval_worker",),
    **{stage: ("worker", stage) for stage in (*Stage, SAMPLE, DELIVER)},
}
"""Module and arguments of each service."""
MODULES: dict[str, tuple[str, ...]] = {
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


def preloaded(settings: Settings, services: Iterable[str]) -> ForkServer:
    """Return a fork server that has imported the modules of these services. It ends with this process."""
    modules = dict.fromkeys(module for service in services for module in MODULES[service])
    return ForkServer(
        f"{__name__}:{os.getpid()}",
        *modules,
        # With NOSETPS, which Celery reads when it is imported, Celery keeps the name that ps shows for a worker.
        environment={**os.environ, "NOSETPS": "1"},
        orphan_s=grace_s(settings),
    )


def grace_s(settings: Settings) -> float:
    """Return the seconds that a service may take to end after SIGTERM: a trainer saves its state."""
    return settings.stop_grace_s + 10


def shared_server(settings: Settings, services: Container[str]) -> ForkServer | None:
    """Return one fork server for trainers and the sampler's child, which import the same libraries; None if they need
    two, because they use a GPU or different numbers of threads, or none."""
    has_gpu = which("nvidia-smi") is not None or os.environ.get("CUDA_VISIBLE_DEVICES")
    if has_gpu or settings.train_slots > 1 or Stage.TRAIN not in services or SAMPLE not in services:
        return None
    return ForkServer("worker.train", "worker.sample", threads=usable_cores())


def prepare(parent: str) -> None:
    """Kill this process, the fork server of services, when its parent ends. The kernel then sends SIGTERM, which a fork
    server ignores, to the services."""
    signal_at_parents_end(signal.SIGKILL, int(parent))


def main(module: str, *arguments: str) -> int:
    signal_at_parents_end(signal.SIGTERM, int(os.environ.pop(PARENT, os.getppid())))
    setproctitle(" ".join([sys.executable, "-m", module, *arguments]))
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
    return 0


def signal_at_parents_end(number: signal.Signals, parent: int) -> None:
    """Ask the kernel to send this process a signal when its parent ends, even if the parent is killed (Linux only).

    `parent`: the process id of the parent. If it has ended already, the signal is sent at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
