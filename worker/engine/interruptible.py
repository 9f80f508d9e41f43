"""Evaluations and passes over the rows that a pause, a stop or a time limit ends before they are complete."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.engine.model.trainable import TrainableModel
from worker.shared.judgements import Interrupted
from worker.shared.pipe import Pipe


@contextmanager
def interruptible(model: TrainableModel, pipe: Pipe, limit_s: float = math.inf) -> Iterator[None]:
    """Within the block, raise Interrupted at the first micro-batch, sampled token or pause of a wait for judges after a
    pause or stop command, or after `limit_s` seconds. The block must not change the weights for good."""
    keep_alive, deadline = model.keep_alive, time.monotonic() + limit_s

    def keep_alive_or_interrupt() -> None:
        keep_alive()
        if pipe.stopping or time.monotonic() > deadline:
            raise Interrupted

    model.keep_alive = keep_alive_or_interrupt
    try:
        yield
    finally:
        model.keep_alive = keep_alive
