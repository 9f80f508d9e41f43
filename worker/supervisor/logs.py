"""What the child of an attempt writes to stdout and stderr, kept where the API can read it.

The run folder goes with the attempt, and its worker may be another machine than the API's. So a thread stores the log:
every few seconds while it grows, and once more when the attempt is over. The child knows no secret that it could print.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from api.records import queue
from api.records.queue import Claim
from api.settings import Settings
from worker.supervisor.background import BackgroundThread
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

EVERY_S = 15
MAX_BYTES = 10 * 1024**2
"""Of a longer log the end is kept: what went wrong stands there."""


class LogUploader(BackgroundThread):
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


_CODE = Path(__file__).resolve().parents[2]
_BEGINS = r"(?:(?<=file://)|(?<![\w./~-]))"
_PATH = re.compile(_BEGINS + r"(?:/[\w.@+~-]+)+/([\w.@+~-]+)")
"""An absolute path of two parts or more; not the path of an address, nor a relative one."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_tail(path: Path, limit: int) -> str:
    """The end of a file, from the beginning of a line on, and a note of what is left out before it. A bar that was
    drawn over is a line for each time; other control characters are left out."""
    with path.open("rb") as file:
        left_out = max(0, file.seek(0, os.SEEK_END) - limit)
        file.seek(left_out)
        content = file.read(limit)
    note = ""
    if left_out:
        after_line = content.find(b"\n") + 1  # 0: one line that is longer than all that is kept
        note, content = f"[{left_out + after_line} bytes before this are not kept]\n", content[after_line:]
    lines = content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return note + _CONTROL.sub("", lines)


def without_paths(text: str, roots: Iterable[Path]) -> str:
    """The text with paths below these folders as relative ones, and of any other absolute path its name alone."""
    known = {str(form) for root in roots for form in (root.absolute(), root.resolve()) if len(form.parts) > 1}
    for root in sorted(known, key=len, reverse=True):
        below = re.compile(f"{_BEGINS}{re.escape(root)}(?:(/)|(?![\\w.-]))")
        text = below.sub(lambda found: "" if found[1] else ".", text)
    return _PATH.sub(r"…/\1", text)


def known_folders(settings: Settings) -> list[Path]:
    """What a log may be told relative to: our code, libraries, and the operator's folders."""
    paths = sysconfig.get_paths()
    return [
        *(Path(paths[name]) for name in ("purelib", "platlib", "stdlib", "platstdlib")),
        *(Path(prefix) for prefix in (sys.prefix, sys.base_prefix)),
        *(_CODE, settings.work, settings.data_dir, Path.home()),
    ]
