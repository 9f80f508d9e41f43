"""Events of a job by the thousand, and a reader of server-sent ones."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import insert

from api.records import Database, jobs
from api.records.charted_steps import ChartedStep
from api.records.events import Event
from api.spec.lifecycle import JobStatus


def add_events(database: Database, job_id: str, count: int, start: int = 0) -> list[str]:
    """Metrics events of so many charted steps. Returns their ids."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"ftevent-{job_id[-8:]}-{start + index}",
            "job_id": job_id,
            "created_at": 1.0,
            "level": "info",
            "message": f"Step {start + index}",
            "type": "metrics",
            "data": {"step": start + index, "train_loss": 1 / (1 + start + index)},
        }
        for index in range(count)
    ]
    with database.write() as session:
        numbers = session.scalars(insert(Event).returning(Event.seq, sort_by_parameter_order=True), rows)
        steps = [{"job_id": job_id, "step": start + index, "seq": seq} for index, seq in enumerate(numbers)]
        session.execute(insert(ChartedStep), steps)
    return [row["id"] for row in rows]


def end(database: Database, job_id: str) -> None:
    with database.write() as session:
        jobs.transition(session, job_id, JobStatus.CANCELLED, message="Fine-tuning job cancelled")


def told(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, event) of each server-sent event that came whole."""
    event_id, data = "", ""
    for line in lines:
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data:
            yield event_id, json.loads(data)
            data = ""
