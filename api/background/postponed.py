"""Items that end an attempt without a result, and the waits before their next attempts."""

MAX_FAULTS = 3
"""Number of attempts that may end with a fault. The fault of the last one becomes the item's result."""
FAULT_WAIT_S = 10.0
OUTAGE_WAIT_S = 5.0
JUDGE_WAIT_S = 60.0
"""Wait of a run's items until one of them asks a judge that was away again."""


class Postponed(Exception):
    """The item has no result yet, and is due again after `wait_s` seconds."""

    def __init__(self, wait_s: float, *, fault: bool = False, outage: bool = False) -> None:
        """`fault`: the item may have caused this. `outage`: no other item can be answered either at the moment."""
        super().__init__(wait_s)
        self.wait_s, self.fault, self.outage = wait_s, fault, outage
