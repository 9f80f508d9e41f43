"""The objects of the source, and until when they can be fetched."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime

from api.cli.client import Document, segment
from api.cli.console import plural
from api.cli.imports.deadlines import DEADLINES, EVALS_DARK, answers_until
from api.cli.imports.source import NotAvailable, Source


@dataclass(frozen=True)
class Item:
    kind: str
    """job, checkpoint, model, file or eval."""
    id: str
    name: str
    status: str
    available: bool
    """Whether the source still returns the object; for a model, whether it still answers."""
    until: str | None
    """The announced day or time, in ISO 8601, after which it is not available; null if there is none."""


def take_inventory(source: Source) -> Document:
    """Return the objects of the source's project. Raise CommandError if the source fails."""
    jobs = source.listed("/fine_tuning/jobs")
    models = {model["id"]: model for model in source.get("/models")["data"]}
    items = [*_jobs(source, jobs, models), *_files(source.listed("/files"), jobs)]
    evals, problem = _evals(source)
    return {
        "object": "import.inventory",
        "source": source.base_url,
        "data": [asdict(item) for item in (*items, *evals)],
        "evals_problem": problem,
        "deadlines": [{"date": str(day), "what": what} for day, what in DEADLINES.items()] if source.is_openai else [],
    }


def _jobs(source: Source, jobs: list[Document], models: Mapping[str, Document]) -> Iterator[Item]:
    """Yield each job, followed by its model and its checkpoints."""
    for job in jobs:
        yield Item("job", job["id"], job["model"], job["status"], True, None)
        model = job.get("fine_tuned_model")
        if not model:
            continue
        until = _model_until(source, models.get(model, {"id": model}))
        answers = model in models
        yield Item("model", model, job["id"], "answers" if answers else "deleted", answers, until)
        for checkpoint in source.listed(f"/fine_tuning/jobs/{segment(job['id'])}/checkpoints"):
            name = checkpoint["fine_tuned_model_checkpoint"]
            yield Item("checkpoint", checkpoint["id"], name, f"step {checkpoint['step_number']}", True, None)


def _model_until(source: Source, model: Document) -> str | None:
    announced = model.get("shutdown_date")
    if announced:
        return str(announced)
    day = answers_until(model["id"]) if source.is_openai else None
    return day.isoformat() if day else None


def _files(files: list[Document], jobs: list[Document]) -> Iterator[Item]:
    """Yield the listed files, and those that jobs name but the source no longer has."""
    for file in files:
        expires = file.get("expires_at")
        status, expired = file.get("status") or "processed", expires is not None and expires <= time.time()
        until = None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat()
        yield Item("file", file["id"], file["filename"], "expired" if expired else status, not expired, until)
    for file_id in sorted(named_files(jobs) - {file["id"] for file in files}):
        yield Item("file", file_id, "", "deleted", False, None)


def named_files(jobs: list[Document]) -> set[str]:
    """Return the ids of the training, validation and result files of jobs."""
    named = [[job["training_file"], job.get("validation_file"), *(job.get("result_files") or [])] for job in jobs]
    return {str(file_id) for ids in named for file_id in ids if file_id}


def _evals(source: Source) -> tuple[list[Item], str | None]:
    """Return (evals, None), or ([], reason) if the source refuses to list them."""
    until = EVALS_DARK.isoformat() if source.is_openai else None
    try:
        found = source.listed("/evals")
        runs = {each["id"]: len(source.listed(f"/evals/{segment(each['id'])}/runs")) for each in found}
    except NotAvailable as refusal:
        return [], f"{refusal.message} (status {refusal.status})"
    return [Item("eval", e["id"], e.get("name") or "", plural(runs[e["id"]], "run"), True, until) for e in found], None


def days_left(until: str | None, today: date) -> int | None:
    """Return the number of days until the day or time; negative if it has passed."""
    return None if until is None else (date.fromisoformat(until[:10]) - today).days
