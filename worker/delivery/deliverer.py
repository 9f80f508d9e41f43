"""A deliverer: the process that tells others. It trains nothing and runs no child, so it alone may have a way out."""

import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

from api.context import Context
from api.lifecycle import DELIVER
from worker.supervisor.node import own_folder


@dataclass
class Deliverer:
    context: Context
    owner: str
    """Stable over restarts, as a node's."""
    folder: Path
    lock: IO[bytes]
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, context: Context) -> Self:
        return cls(context, *own_folder(context.settings.work, DELIVER))

    def stop_on_signals(self) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: self.stopping.set())
