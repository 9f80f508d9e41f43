"""Follows a job through the openai client: prints its events and shows a progress bar."""

import time
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

POLL_S = 1.0


def follow(client: OpenAI, job_id: str, console: Console) -> tuple[Any, list[float]]:
    """Wait until the job ends. Return it and the training loss at each step."""
    losses: list[float] = []
    printed: set[str] = set()
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[metrics]}"), TimeElapsedColumn()]
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting", total=None, metrics="")
        while True:
            job = client.fine_tuning.jobs.retrieve(job_id)
            for event in reversed(_new_events(client, job_id, printed)):
                data: Any = event.data or {}
                if event.type == "metrics":
                    losses.append(data["train_loss"])
                    metrics = f"step {data['step']}/{data['total_steps']}  loss {losses[-1]:.3f}"
                    metrics += f"  {data['tokens_per_second']:,.0f} tokens/s"
                    progress.update(bar, completed=data["step"], total=data["total_steps"], metrics=metrics)
                if event.type != "metrics" or "valid_loss" in data or not console.is_terminal:
                    progress.console.print(f"  {event.message}", markup=False, soft_wrap=True)
            progress.update(bar, description=job.status)
            if job.status in {"succeeded", "failed", "cancelled"}:
                return job, losses
            time.sleep(POLL_S)


def _new_events(client: OpenAI, job_id: str, printed: set[str]) -> list[Any]:
    """Return the events that were not printed, newest first as the server lists them. The client fetches the pages."""
    new = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=50):
        if event.id in printed:
            break
        printed.add(event.id)
        new.append(event)
    return new
