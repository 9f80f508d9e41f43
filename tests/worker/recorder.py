"""The trainer in this process, with a pipe that remembers its reports and can ask it to stop."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.engine.errors import Stopped
from worker.shared.reports import Report, StoppedReport, WarningReport, as_dict
from worker.train import train


class Recorder:
    """Stands in for worker.shared.pipe.Pipe."""

    def __init__(
        self, *, stop_after: int | None = None, on_report: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.reports: list[dict[str, Any]] = []
        self.blocks = 0
        """How many blocks that send signs of life the trainer is in."""
        self._stop_after, self._on_report = stop_after, on_report

    @property
    def stopping(self) -> bool:
        return self._stop_after is not None and len(self.of("metrics")) >= self._stop_after

    def alive(self) -> None:
        """Nobody waits for a sign of life here."""

    @contextmanager
    def working(self) -> Iterator[None]:
        self.blocks += 1
        yield
        self.blocks -= 1

    def warn(self, message: str) -> None:
        self.report(WarningReport(message=message))

    def report(self, report: Report) -> None:
        self.reports.append(as_dict(report))
        if self._on_report:
            self._on_report(self.reports[-1])

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["type"] == type_]


def train_here(run: Path, **options: Any) -> Recorder:
    recorder = Recorder(**options)
    try:
        train(run, recorder)  # type: ignore[arg-type]
    except Stopped as stopped:
        recorder.report(StoppedReport(step=stopped.step))
    return recorder


def attempt_after(run: Path, folder: Path, state: str) -> Path:
    """The next attempt's run folder: the same inputs, and a state of the last attempt to resume from."""
    folder.mkdir()
    for name in ("recipe.json", "data"):
        (folder / name).symlink_to(run / name)
    (folder / "base").symlink_to((run / "base").resolve())
    shutil.copytree(run / state, folder / "resume")
    return folder


def adapter(run: Path) -> bytes:
    return (run / "out" / "model" / "adapter_model.safetensors").read_bytes()
