"""Faults on demand, for tests: ATTUNE_FAIL_AT="step:5:kill", several separated by commas.

kill ends the process as a crash would, hang sleeps without end, oom (or oom*3, for as many tries) says that memory ran
out; each at the beginning of the step named.
"""

import os
import signal
import threading

import torch

VARIABLE = "ATTUNE_FAIL_AT"

_tries: dict[int, int] = {}


def reach(step: int) -> None:
    for point in filter(None, os.environ.get(VARIABLE, "").split(",")):
        kind, at, fault = point.split(":")
        assert kind == "step", f"{VARIABLE}: unknown point {point}"
        if int(at) == step:
            _fail(step, *fault.split("*"))


def _fail(step: int, fault: str, times: str = "1") -> None:
    match fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "oom":
            _tries[step] = _tries.get(step, 0) + 1
            if _tries[step] <= int(times):
                raise torch.OutOfMemoryError(f"failpoint at step {step}, try {_tries[step]}")
        case _:
            raise ValueError(f"{VARIABLE}: unknown fault {fault}")
