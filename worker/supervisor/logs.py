"""What the child of an attempt writes to stdout and stderr, kept where the API can read it.

The run folder goes with the attempt, and its worker may be another machine than the API's. So a thread stores the log:
every few seconds while it grows, and once more when the attempt is over. The child knows no secret that it could print.
"""

from pathlib import Path
from typing import Any

import structlog

from api.records import queue
from api.records.queue import Claim
from worker.supervisor.beside import Beside
from worker.supervisor.log_text import known_folders, read_tail, without_paths
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

EVERY_S = 15
MAX_BYTES = 10 * 1024**2
"""Of a longer log the end is kept: what went wrong stands there."""


class KeptLog(Beside):
    """While it runs, and when it is left. That a log could not be stored fails no attempt."""

    def __init__(self, node: Node, claim: Claim, path: Path) -> None:
        super().__init__(f"log-{claim.job_id}")
        self._node, self._claim, self._path = node, claim, path
        self._stored_size = 0

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._store()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._store()

    def _store(self) -> None:
        try:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size == self._stored_size:
                return
            folders = [self._path.parent, *known_folders(self._node.context.settings)]
            tail = without_paths(read_tail(self._path, MAX_BYTES), folders).encode()
            self._node.context.storage.write_bytes(queue.log_key(self._claim.job_id, self._claim.fence), tail)
            with self._node.context.database.write() as session:
                queue.keep_log(session, self._claim, len(tail))
            self._stored_size = size
        except Exception as error:
            log.warning("log_not_stored", job_id=self._claim.job_id, error=type(error).__name__)
