"""The log of an attempt's child process, uploaded to storage, where the API can read it.

The run folder is deleted with the attempt, and may be on another machine than the API. A thread uploads the log every
few seconds while it grows, and once more when the attempt ends. The child knows no secret that it could print.
"""

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import structlog

from api.records import job_queue
from api.records.job_queue import Claim
from api.settings import Settings
from worker.supervisor.background import BackgroundThread
from worker.supervisor.node import Node

log = structlog.get_logger(__name__)

UPLOAD_S = 15
MAX_BYTES = 10 * 1024**2
"""Maximum size of a stored log in bytes. Only the end of a longer log is kept, because errors are usually there."""


class LogUploader(BackgroundThread):
    """The thread that uploads the log. A log that cannot be stored does not fail the attempt."""

    def __init__(self, node: Node, claim: Claim, path: Path) -> None:
        super().__init__(f"log-{claim.job_id}")
        self._node, self._claim, self._path = node, claim, path
        self._stored_size = 0

    def _run(self) -> None:
        while not self._stop.wait(UPLOAD_S):
            self._store()
        self._store()

    def _store(self) -> None:
        try:
            size = self._path.stat().st_size if self._path.exists() else 0
            if size == self._stored_size:
                return
            folders = [self._path.parent, *known_folders(self._node.context.settings)]
            tail = relative_paths(read_tail(self._path, MAX_BYTES), folders).encode()
            self._node.context.storage.write_bytes(job_queue.log_key(self._claim.job_id, self._claim.fence), tail)
            with self._node.context.database.write() as session:
                job_queue.record_log(session, self._claim, len(tail))
            self._stored_size = size
        except Exception as error:
            log.warning("log_not_stored", job_id=self._claim.job_id, error=type(error).__name__)


_CODE = Path(__file__).resolve().parents[2]
_BEGINS = r"(?:(?<=file://)|(?<![\w./~-]))"
_PATH = re.compile(_BEGINS + r"(?:/[\w.@+~-]+)+/([\w.@+~-]+)")
"""An absolute path of two parts or more. Paths in URLs and relative paths do not match."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def read_tail(path: Path, limit: int) -> str:
    """Return the last whole lines of a file, at most `limit` bytes of them. If the file has more, a first line states
    how many bytes were left out.

    Each redraw of a progress bar becomes a line. Other control characters are removed.
    """
    with path.open("rb") as file:
        skipped = max(0, file.seek(0, os.SEEK_END) - limit)
        file.seek(skipped)
        content = file.read(limit)
    note = ""
    if skipped:
        after_line = content.find(b"\n") + 1  # 0 if a single line is longer than the limit
        note, content = f"[{skipped + after_line} bytes before this are not kept]\n", content[after_line:]
    lines = content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return note + _CONTROL.sub("", lines)


def relative_paths(text: str, roots: Iterable[Path]) -> str:
    """Replace paths below `roots` by relative paths, and shorten every other absolute path to its last part."""
    known = {str(form) for root in roots for form in (root.absolute(), root.resolve()) if len(form.parts) > 1}
    for root in sorted(known, key=len, reverse=True):
        below = re.compile(f"{_BEGINS}{re.escape(root)}(?:(/)|(?![\\w.-]))")
        text = below.sub(lambda match: "" if match[1] else ".", text)
    return _PATH.sub(r"…/\1", text)


def known_folders(settings: Settings) -> list[Path]:
    """Return the folders below which a log shows relative paths: our code, libraries, and the operator's folders."""
    paths = sysconfig.get_paths()
    return [
        *(Path(paths[name]) for name in ("purelib", "platlib", "stdlib", "platstdlib")),
        *(Path(prefix) for prefix in (sys.prefix, sys.base_prefix)),
        *(_CODE, settings.work, settings.data_dir, Path.home()),
    ]
