"""A deliverer: the process that sends to other servers. It may have outgoing access, because it runs no child with
users' data."""

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.context import Context
from api.spec.lifecycle import DELIVER
from worker.supervisor.node import claim_work_dir

log = structlog.get_logger(__name__)


@dataclass
class Deliverer:
    context: Context
    owner: str
    """The deliverer's name, which survives restarts (worker.supervisor.node.Node)."""
    folder: Path
    lock: IO[bytes]
    stopping: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, context: Context) -> Self:
        return cls(context, *claim_work_dir(context.settings.work, DELIVER))

    def repeat(self, name: str, act: Callable[[], object], wait_s: float) -> None:
        """Call `act` every `wait_s` seconds until the deliverer stops. Errors are logged as failures of `name`."""
        while not self.stopping.is_set():
            try:
                act()
            except SQLAlchemyError as error:
                log.warning(f"{name}_failed", error=type(error).__name__)
            except Exception:
                log.exception(f"{name}_failed")
            self.stopping.wait(wait_s)

    def stop_on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
