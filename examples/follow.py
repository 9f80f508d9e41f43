"""Follows a job through the openai client: its messages scroll by, and a bar shows how far it is."""

import time
from typing import Any

from openai import OpenAI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

POLL_S = 1.0


def follow(client: OpenAI, job_id: str, console: Console) -> tuple[Any, list[float]]:
    """Returns the job when it has ended, and the training loss at each of its steps."""
    losses: list[float] = []
    seen: set[str] = set()
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn()]
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting", total=None, numbers="")
        while True:
            job = client.fine_tuning.jobs.retrieve(job_id)
            for event in reversed(_new_events(client, job_id, seen)):
                data: Any = event.data or {}
                if event.type == "metrics":
                    losses.append(data["train_loss"])
                    numbers = f"step {data['step']}/{data['total_steps']}  loss {losses[-1]:.3f}"
                    numbers += f"  {data['tokens_per_second']:,.0f} tokens/s"
                    progress.update(bar, completed=data["step"], total=data["total_steps"], numbers=numbers)
                if event.type != "metrics" or "valid_loss" in data or not console.is_terminal:
                    progress.console.print(f"  {event.message}", markup=False, soft_wrap=True)
            progress.update(bar, description=job.status)
            if job.status in {"succeeded", "failed", "cancelled"}:
                return job, losses
            time.sleep(POLL_S)


def _new_events(client: OpenAI, job_id: str, seen: set[str]) -> list[Any]:
    """Newest first, as the server lists them; the client asks for further pages by itself."""
    new = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=50):
        if event.id in seen:
            break
        seen.add(event.id)
        new.append(event)
    return new
