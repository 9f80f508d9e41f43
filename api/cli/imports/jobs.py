"""The jobs in the folder of an import, and their files."""

from collections.abc import Sequence
from pathlib import Path

from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.fetch import JOBS
from api.cli.imports.folder import read_lines, safe_id

ANSWERS, NEW_ANSWERS = "answers", "new-answers"
"""Subfolders with the answers of the old models, and of those that were trained here."""


def read_jobs(folder: Path, chosen: Sequence[str] | None) -> list[Document]:
    """Return the chosen jobs, by default those that succeeded, oldest first. Raise CommandError for an unknown one."""
    jobs = {job["id"]: job for job in reversed(read_lines(folder / JOBS))}
    if not chosen:
        return [job for job in jobs.values() if job["status"] == "succeeded"]
    for job_id in chosen:
        if job_id not in jobs:
            raise CommandError(ExitCode.REFUSED, f"{folder} has no job {job_id}: it has {', '.join(jobs) or 'none'}.")
    return [jobs[job_id] for job_id in chosen]


def file_of(folder: Path, file_id: str | None) -> Path | None:
    """Return the fetched content of a file; None if it could not be fetched."""
    if not file_id:
        return None
    found = [path for path in (folder / "files" / safe_id(file_id)).glob("*") if path.suffix != ".part"]
    return found[0] if found else None
