"""The folder of an import. Its files are written whole or not at all, and listed with their SHA-256 in the manifest.

An import proceeds in numbered runs. An interrupted run is continued by the next command, which skips what the run has
stored. A run after a complete one fetches what is new at the source. Objects that the source has deleted since stay in
the folder.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.infra.private_file import write_private_file
from api.spec.file_hash import file_sha256

MANIFEST = "manifest.jsonl"
MAX_RUN_S = 24 * 3600
"""Age from which an interrupted run is not continued, because its lists are out of date. Stored files stay."""
PARTIAL_LISTS = ("*.jsonl.part", "jobs/*/*.jsonl.part", "evals/*/*.jsonl.part")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,200}")


class Journal:
    """A file of JSON lines that is only appended to. A line counts once its newline is on the disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")  # noqa: SIM115 (open until `close`)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1  # a killed process may leave the beginning of a line
        self._file.truncate(whole)
        self._file.seek(whole)
        self.entries = _parsed(path, content[:whole])

    def append(self, *entries: Document) -> None:
        self._file.write(b"".join(json_line(entry) for entry in entries))
        sync(self._file)
        self.entries += entries

    def clear(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)
        self.entries = []

    def close(self) -> None:
        self._file.close()


class Folder:
    """The folder of an import. Only one command holds it at a time."""

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self._manifest = Journal(path / MANIFEST)
        if not self._manifest.entries:
            self._manifest.append({"object": "import.manifest", "version": 1, "source": source})
        elif (earlier := self._manifest.entries[0]["source"]) != source:
            raise CommandError(
                ExitCode.REFUSED, f"{path} holds an import from {earlier}: use another folder, or --from {earlier}."
            )
        self._stored = {entry["path"]: entry for entry in self._manifest.entries if "path" in entry}
        self.run = self._begin()

    def _begin(self) -> int:
        """Return the number of the interrupted run if it is recent, else of a new one."""
        last = next((entry for entry in reversed(self._manifest.entries) if "run_state" in entry), None)
        if last is not None and last["run_state"] == "started" and time.time() - last["at"] < MAX_RUN_S:
            return int(last["run"])
        for partial in (path for pattern in PARTIAL_LISTS for path in self.path.glob(pattern)):
            partial.unlink()  # of an older run
        run = 1 if last is None else last["run"] + 1
        self._manifest.append({"run": run, "run_state": "started", "at": int(time.time())})
        return int(run)

    def complete(self) -> None:
        self._manifest.append({"run": self.run, "run_state": "complete", "at": int(time.time())})

    def entries(self) -> Iterator[Document]:
        yield from self._stored.values()

    def is_settled(self, name: str) -> bool:
        """Return whether this run has nothing more to fetch for the file: it is stored, or the source refuses it."""
        entry = self._stored.get(name)
        if entry is None or not (entry["final"] or entry["run"] == self.run):
            return False
        return "unavailable" in entry or self._is_intact(entry)

    def adopt(self, name: str) -> None:
        """Add a file to the manifest that a killed command had stored whole, but not added."""
        if name not in self._stored and (self.path / name).is_file():
            self.record(name, final=True)

    def record(self, name: str, *, final: bool) -> None:
        """Add a stored file to the manifest. `final`: whether later runs skip it, because it cannot change at the
        source."""
        path = self.path / name
        facts = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        self._append({"path": name, **facts, "final": final, "run": self.run})

    def record_unavailable(self, name: str, status: int, message: str, *, final: bool) -> None:
        """Note in the manifest that the source refuses a file. If an earlier run has stored the file, its entry is
        kept."""
        stored = self._stored.get(name)
        if stored is not None and "unavailable" not in stored:
            self._append({**stored, "run": self.run})
        else:
            self._append({"path": name, "unavailable": status, "message": message, "final": final, "run": self.run})

    def write(self, name: str, content: bytes, *, final: bool) -> None:
        write_private_file(self.path / name, content)
        self.record(name, final=final)

    def _append(self, entry: Document) -> None:
        self._manifest.append(entry)
        self._stored[entry["path"]] = entry

    def _is_intact(self, entry: Document) -> bool:
        path = self.path / entry["path"]
        return path.is_file() and (path.stat().st_size, file_sha256(path)) == (entry["bytes"], entry["sha256"])


def require_source(path: Path, source: str) -> None:
    """Raise CommandError unless the folder was fetched from this server.

    The user's key belongs to the server that the command names, and must not be sent to a server that a file names.
    """
    earlier = source_of(path)
    if earlier != source:
        raise CommandError(ExitCode.REFUSED, f"{path} holds an import from {earlier}: add --from {earlier}.")


def source_of(path: Path) -> str:
    """Return the server that the folder was fetched from. Raise CommandError if it holds no import."""
    entries = read_lines(path / MANIFEST)
    if not entries:
        raise CommandError(
            ExitCode.REFUSED, f"{path} holds no import: make one with `attune import fetch --output {path}`."
        )
    return str(entries[0]["source"])


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock the folder for this process, creating it if needed. Raise CommandError if another process has locked it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(ExitCode.REFUSED, f"another command works in {path}: wait until it ends.") from None
        yield


def read_lines(path: Path) -> list[Document]:
    """Return the objects of a file of JSON lines; none if it does not exist."""
    if not path.is_file():
        return []
    return _parsed(path, path.read_bytes())


def _parsed(path: Path, content: bytes) -> list[Document]:
    try:
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError:
        raise CommandError(ExitCode.CORRUPT, f"{path} is damaged: delete it, and repeat the command.") from None


def merged(new: Iterable[Document], old: Iterable[Document]) -> list[Document]:
    """Return the new objects, followed by the old ones with other ids."""
    listed = {each["id"]: each for each in new}
    return [*listed.values(), *(each for each in old if each["id"] not in listed)]


def json_line(document: Document) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def safe_id(identifier: object) -> str:
    """Return the id of an object as the name of a folder. Raise CommandError for one that could point elsewhere."""
    if not isinstance(identifier, str) or not SAFE_ID.fullmatch(identifier):
        raise CommandError(ExitCode.CORRUPT, f"the source lists an object with an unsafe id: {identifier}")
    return identifier


def safe_name(name: object) -> str:
    """Return the file name with each character that a shell or a file system could misread replaced by a hyphen."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(name))[-150:].strip(".-") or "content"


def digest_of(value: object) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
