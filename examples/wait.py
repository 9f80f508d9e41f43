"""Waits for a job and prints what happens, for the other programs of this folder."""

import time
from typing import Any

from openai import OpenAI


def wait(client: OpenAI, job: Any) -> Any:
    """Print the job's messages until it has ended, and return it. Exit unless it succeeded."""
    seen: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(job.id)  # before the events, so that the last ones are not missed
        for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=50).data):
            if event.id not in seen and event.type != "metrics":
                print(event.message)
            seen.add(event.id)
        if job.status in {"succeeded", "failed", "cancelled"}:
            break
        time.sleep(1)
    if job.status != "succeeded":
        raise SystemExit(f"{job.status}: {job.error.message if job.error else 'without an error'}")
    return job
