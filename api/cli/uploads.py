"""Uploads of large files in parts. A repeated upload continues an interrupted one.

The ids of an upload and its parts are stored in `~/.local/state/attune/uploads` until the upload is complete. The
server keeps the parts until the upload expires, by default for an hour.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from io import BufferedReader
from pathlib import Path

from api.cli import waiting
from api.cli.client import GENERATION_TIMEOUT, Client, Document, segment
from api.cli.console import format_time, print_note
from api.cli.errors import CommandError, ExitCode, RequestRefused

MIN_BYTES = 64 * 1024**2
"""Size above which a file is sent in parts. The limit of files that are sent whole is 512 MiB by default."""
PART_BYTES = 16 * 1024**2
MAX_PARTS = 10_000
"""Number of parts that an upload may have. Files of more than 156 GiB need larger parts."""


def part_bytes(size: int) -> int:
    """Return the size of the parts of a file of `size` bytes, in bytes."""
    return max(PART_BYTES, math.ceil(size / MAX_PARTS))


class _Record:
    """The stored ids of the pending upload of a file, for this server, content and purpose."""

    def __init__(self, client: Client, path: Path, purpose: str) -> None:
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        name = hashlib.sha256(f"{client.base_url}\n{path.resolve()}".encode()).hexdigest()[:32]
        self._file = Path(home) / "attune" / "uploads" / f"{name}.json"
        status = path.stat()
        self._content = {"bytes": status.st_size, "modified_ns": status.st_mtime_ns, "purpose": purpose}

    def load(self) -> tuple[str, list[str]] | None:
        """Return the ids of the upload and of the parts that the server has, in their order."""
        try:
            stored = json.loads(self._file.read_text())
            return (stored["upload"], stored["parts"]) if stored["content"] == self._content else None
        except (OSError, ValueError, KeyError):
            return None

    def store(self, upload_id: str, parts: list[str]) -> None:
        text = json.dumps({"content": self._content, "upload": upload_id, "parts": parts})
        with contextlib.suppress(OSError):  # without it, an interrupted upload begins again
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.write_text(text)

    def delete(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def upload_in_parts(
    client: Client, file: BufferedReader, path: Path, purpose: str, report: Callable[[int], None]
) -> Document:
    """Send the file in parts and return it as the server lists it.

    `report`: called with the number of bytes that the server has. Raise CommandError.
    """
    record = _Record(client, path, purpose)
    upload, parts = _continued(client, record) or (_begin(client, path, purpose), [])
    try:
        if upload["status"] == "pending":
            upload = _send(client, upload["id"], parts, file, record, report)
    except (CommandError, KeyboardInterrupt) as error:
        if isinstance(error, RequestRefused) and error.code is ExitCode.REFUSED:  # a repetition would be refused, too
            record.delete()
        elif parts:
            print_note(f"The server keeps the parts until {format_time(upload['expires_at'])}: repeat the command.")
        raise
    record.delete()
    return dict(upload["file"])


def _begin(client: Client, path: Path, purpose: str) -> Document:
    body = {"bytes": path.stat().st_size, "filename": path.name, "mime_type": "application/octet-stream"}
    return client.post("/uploads", body | {"purpose": purpose})


def _continued(client: Client, record: _Record) -> tuple[Document, list[str]] | None:
    """Return the recorded upload and its parts if it is pending or has become a file."""
    if (stored := record.load()) is None:
        return None
    upload_id, parts = stored
    try:
        upload = client.get(f"/uploads/{segment(upload_id)}")
    except RequestRefused as error:
        if error.code is not ExitCode.REFUSED:
            raise
        return None  # of another project, or deleted
    return (upload, parts) if upload["status"] == "pending" or upload["file"] is not None else None


def _send(
    client: Client,
    upload_id: str,
    parts: list[str],
    file: BufferedReader,
    record: _Record,
    report: Callable[[int], None],
) -> Document:
    """Send the parts after the first `len(parts)` and complete the upload. Extend `parts` by each part's id."""
    path, md5 = f"/uploads/{segment(upload_id)}", hashlib.md5(usedforsecurity=False)
    size = part_bytes(os.fstat(file.fileno()).st_size)
    for index, chunk in enumerate(iter(partial(file.read, size), b"")):
        md5.update(chunk)
        if index >= len(parts):
            parts.append(_patiently(partial(client.upload_part, path, chunk))["id"])
            record.store(upload_id, parts)
        report(index * size + len(chunk))
    completion = {"part_ids": parts, "md5": md5.hexdigest()}
    return _patiently(partial(client.post, f"{path}/complete", completion, timeout=GENERATION_TIMEOUT))


def _patiently(send: Callable[[], Document]) -> Document:
    """Repeat a request while the server is unreachable or busy. Raise CommandError after an outage of
    `waiting.MAX_OUTAGE_S`."""
    outage = waiting.Outage()
    while True:
        try:
            return send()
        except CommandError as error:
            outage.endure(error)
        time.sleep(waiting.POLL_S)
