"""The ends of an attempt at an item that are not its result."""

MAX_FAULTS = 3
"""Attempts that end with a fault, after which the fault is the item's result."""
FAULT_WAIT_S = 10.0
OUTAGE_WAIT_S = 5.0
JUDGE_WAIT_S = 60.0
"""Wait after the first fault of an item whose judge is away. The next one is JUDGE_WAIT_GROWTH times as long, so that a
judge that is away for some minutes does not end all items of a run."""
JUDGE_WAIT_GROWTH = 5


class Postponed(Exception):
    """The item has no result yet and is due again later."""

    def __init__(self, wait_s: float, *, fault: bool = False, outage: bool = False) -> None:
        """`fault`: the item may be the cause. `outage`: no other item can be answered either."""
        super().__init__(wait_s)
        self.wait_s, self.fault, self.outage = wait_s, fault, outage
