"""`attune import fetch`: copy everything about fine-tuning and evals from the source into a folder.

jobs.jsonl, files.jsonl, evals.jsonl        the objects, one to a line
jobs/JOB/events.jsonl, checkpoints.jsonl    and recipe.json, if the source is an Attune server
files/FILE/NAME                             the content, as the source sends it
files/FILE.csv                              the metrics of a result file, if the source sends them in base64
evals/EVAL/runs.jsonl, RUN.jsonl            the runs of an eval, and the output items of each
manifest.jsonl                              every file with its SHA-256, and what the source refused
"""

import base64
import binascii
import os
from pathlib import Path

import httpx

from api.cli.client import Document, segment
from api.cli.console import format_size, print_note
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.folder import Folder, Journal, json_line, merged, read_lines, safe_id, safe_name, sync
from api.cli.imports.inventory import named_files
from api.cli.imports.source import NotAvailable, Source
from api.spec.file_hash import file_sha256

JOBS, FILES, EVALS = "jobs.jsonl", "files.jsonl", "evals.jsonl"
ENDED_JOB = {"succeeded", "failed", "cancelled"}
ENDED_RUN = {"completed", "failed", "canceled", "cancelled"}
PURPOSES = {"fine-tune", "fine-tune-results", "evals"}
"""Purposes of the files that are fetched even if no job names them."""
RESULTS = "fine-tune-results"
MAX_METRICS_BYTES = 64 << 20
MAX_RESUMPTIONS = 5


def fetch(source: Source, folder: Folder) -> Document:
    """Fetch what the folder lacks, and return a report. Raise CommandError if the source fails; it can be run again."""
    collected = _Fetch(source, folder)
    collected.jobs()
    collected.files()
    collected.evals()
    folder.complete()
    entries = list(folder.entries())
    refused = [entry for entry in entries if "unavailable" in entry]
    return {
        "object": "import.fetch",
        "source": source.base_url,
        "folder": str(folder.path),
        "jobs": len(read_lines(folder.path / JOBS)),
        "evals": len(read_lines(folder.path / EVALS)),
        "files": sum("bytes" in entry and entry["path"].startswith("files/") for entry in entries),
        "bytes": sum(entry.get("bytes", 0) for entry in entries),
        "unavailable": [
            {"path": entry["path"], "status": entry["unavailable"], "message": entry["message"]} for entry in refused
        ],
    }


class _Fetch:
    def __init__(self, source: Source, folder: Folder) -> None:
        self._source, self._folder = source, folder

    def jobs(self) -> None:
        for job in self._list("/fine_tuning/jobs", JOBS):
            path, name = f"/fine_tuning/jobs/{segment(job['id'])}", f"jobs/{safe_id(job['id'])}"
            ended = job.get("status") in ENDED_JOB
            self._list(f"{path}/events", f"{name}/events.jsonl", final=ended)
            self._list(f"{path}/checkpoints", f"{name}/checkpoints.jsonl", final=ended)
            if "technique" in job:  # an Attune server's, whose jobs have more settings than OpenAI's
                self._object(f"{path}/recipe", f"{name}/recipe.json")

    def files(self) -> None:
        listed = {file["id"]: file for file in self._list("/files", FILES)}
        jobs = read_lines(self._folder.path / JOBS)
        wanted = [file_id for file_id, file in listed.items() if file.get("purpose") in PURPOSES]
        for file_id in dict.fromkeys([*wanted, *sorted(named_files(jobs))]):
            self._file(listed.get(file_id) or {"id": file_id, "filename": "content"})

    def evals(self) -> None:
        for each in self._list("/evals", EVALS):
            path, name = f"/evals/{segment(each['id'])}", f"evals/{safe_id(each['id'])}"
            for run in self._list(f"{path}/runs", f"{name}/runs.jsonl"):
                items = f"{path}/runs/{segment(run['id'])}/output_items"
                self._list(items, f"{name}/{safe_id(run['id'])}.jsonl", final=run.get("status") in ENDED_RUN)

    def _list(self, path: str, name: str, *, final: bool = False) -> list[Document]:
        """Return the objects of a list, from the folder if this run has stored them. Pages are stored one by one."""
        stored = self._folder.path / name
        partial = stored.with_name(f"{stored.name}.part")
        if not self._folder.is_settled(name):
            try:
                new = self._collected(path, partial)
            except NotAvailable as refusal:
                partial.unlink()
                self._folder.record_unavailable(name, refusal.status, refusal.message, final=False)
                return read_lines(stored)
            lines = map(json_line, merged(new, read_lines(stored)))
            self._folder.write(name, b"".join(lines), final=final)
            print_note(f"{name}: {len(new)}")
        partial.unlink(missing_ok=True)
        return read_lines(stored)

    def _collected(self, path: str, partial: Path) -> list[Document]:
        """Return the objects of a list, continuing after those that an interrupted command has stored."""
        journal = Journal(partial)
        try:
            self._collect(path, journal)
        except NotAvailable:
            if not journal.entries:
                raise
            journal.clear()  # the last stored object is deleted at the source, so the list starts over
            self._collect(path, journal)
        finally:
            journal.close()
        return journal.entries

    def _collect(self, path: str, journal: Journal) -> None:
        after = journal.entries[-1]["id"] if journal.entries else None
        for page in self._source.pages(path, after=after):
            journal.append(*page)

    def _object(self, path: str, name: str) -> None:
        self._folder.adopt(name)
        if not self._folder.is_settled(name):
            try:
                content = json_line(self._source.get(path))
            except NotAvailable as refusal:
                self._folder.record_unavailable(name, refusal.status, refusal.message, final=refusal.is_gone)
            else:
                self._folder.write(name, content, final=True)

    def _file(self, file: Document) -> None:
        name = f"files/{safe_id(file['id'])}/{safe_name(file.get('filename'))}"
        self._folder.adopt(name)
        if not self._folder.is_settled(name):
            try:
                self._download(file, self._folder.path / name)
            except NotAvailable as refusal:
                self._folder.record_unavailable(name, refusal.status, refusal.message, final=refusal.is_gone)
                return
            self._folder.record(name, final=True)
            print_note(f"{name}: {format_size((self._folder.path / name).stat().st_size)}")
        if file.get("purpose") == RESULTS:
            self._decode(name, f"files/{file['id']}.csv")

    def _download(self, file: Document, target: Path) -> None:
        """Download the content of a file to `target`. Raise CommandError if the source fails.

        Raise NotAvailable, and leave no partial file, if the source refuses the file.
        """
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = target.with_name(f"{target.name}.part")
        for _ in range(MAX_RESUMPTIONS):
            try:
                self._append_rest(file, partial)
                break
            except httpx.TransportError:
                continue
            except NotAvailable:
                partial.unlink()
                raise
        else:
            raise CommandError(ExitCode.UNAVAILABLE, f"the download of {file['id']} breaks off: run the command again.")
        if file.get("sha256") not in (None, file_sha256(partial)):
            partial.unlink()
            raise CommandError(ExitCode.CORRUPT, f"{file['id']} was not kept: its SHA-256 differs from the listed one.")
        partial.replace(target)

    def _append_rest(self, file: Document, partial: Path) -> None:
        """Append the content that the partial file still lacks."""
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
            start = output.tell()
            if start and start == file.get("bytes"):
                return
            try:
                with self._source.download(f"/files/{segment(file['id'])}/content", start=start) as response:
                    if response.status_code != 206:  # the source sends the whole file
                        output.truncate(0)
                    for chunk in response.iter_bytes():
                        output.write(chunk)
            except NotAvailable as refusal:
                if not start or refusal.status != 416:
                    raise
                output.truncate(0)  # the partial file has more bytes than the source's file
                raise httpx.ReadError(refusal.message) from None
            sync(output)

    def _decode(self, name: str, decoded: str) -> None:
        path = self._folder.path / name
        if not self._folder.is_settled(decoded) and path.stat().st_size <= MAX_METRICS_BYTES:
            metrics = decoded_metrics(path.read_bytes())
            if metrics is not None:
                self._folder.write(decoded, metrics, final=True)


def decoded_metrics(content: bytes) -> bytes | None:
    """Return the CSV of a result file that is encoded in base64, as OpenAI's are; None for any other content."""
    try:
        decoded = base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return None
    return decoded if decoded.startswith(b"step,") else None
