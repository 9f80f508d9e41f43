"""Injected faults, for tests: ATTUNE_FAIL_AT="step:5:kill", or several separated by commas.

A fault strikes at the beginning of its step. `kill` ends the process as an operator would, `crash` as a fault in native
code would, `hang` sleeps forever, `oom` raises an out-of-memory error (`oom*3`: in the first three tries of the step).
"""

import os
import signal
import threading

import torch

VARIABLE = "ATTUNE_FAIL_AT"

_tries: dict[int, int] = {}
"""Number of tries so far, by step."""


def reach(step: int) -> None:
    """Inject the fault that ATTUNE_FAIL_AT sets for this step, if there is one."""
    for point in filter(None, os.environ.get(VARIABLE, "").split(",")):
        kind, at, fault = point.split(":")
        assert kind == "step", f"{VARIABLE}: unknown point {point}"
        if int(at) == step:
            _fail(step, *fault.split("*"))


def _fail(step: int, fault: str, times: str = "1") -> None:
    match fault:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGABRT)
        case "hang":
            threading.Event().wait()
        case "oom":
            _tries[step] = _tries.get(step, 0) + 1
            if _tries[step] <= int(times):
                raise torch.OutOfMemoryError(f"failpoint at step {step}, try {_tries[step]}")
        case _:
            raise ValueError(f"{VARIABLE}: unknown fault {fault}")
