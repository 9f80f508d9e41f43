"""Waits for tests of rate limits."""

from api.cli.imports.waits import Waits


class RecordedWaits(Waits):
    """Waits that are over at once, by a clock that they advance."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[float] = []

    def now(self) -> float:
        return sum(self.recorded)

    def sleep(self, seconds: float) -> None:
        self.recorded.append(seconds)
