"""`attune jobs watch`: follows a job's events until it ends.

On a terminal a bar with step, loss, speed and time left; elsewhere a line for each event; with --json a JSON line for
each event and, last, the job. A server that restarts meanwhile is waited for.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from rich.progress import BarColumn, Progress, TextColumn

from api.cli.client import Client, Document, segment
from api.cli.console import clean, err, note, out, print_error, print_json, print_line
from api.cli.errors import CommandError, ExitCode

POLL_S = 1.0
PATIENCE_S = 90.0
"""How long a server may be away before watching it ends."""

ENDINGS = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}


class View(Protocol):
    def event(self, event: Document) -> None: ...
    def state(self, job: Document) -> None: ...
    def end(self, job: Document) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def watch_job(client: Client, job_id: str, *, as_json: bool) -> ExitCode:
    """Follow the job until it ends. Leaving by ctrl-C leaves the job running."""
    view: View = JsonLines() if as_json else (Bar() if out.is_terminal else Lines())
    try:
        with view:
            job = _follow(client, job_id, view)
        view.end(job)
    except KeyboardInterrupt:
        note(f"Stopped watching; {job_id} goes on. Watch it again with: attune jobs watch {job_id}")
        return ExitCode.INTERRUPTED
    return ENDINGS[job["status"]]


def _follow(client: Client, job_id: str, view: View) -> Document:
    path = f"/fine_tuning/jobs/{segment(job_id)}"
    last_seen: str | None = None
    away_since: float | None = None
    while True:
        try:
            job = client.get(path)  # before its events: those of a job that has ended are then complete
            for event in _events_since(client, path, last_seen):
                view.event(event)
                last_seen = event["id"]
            view.state(job)
            if job["status"] in ENDINGS:
                return job
            away_since = None
        except CommandError as error:
            if error.code is not ExitCode.UNAVAILABLE:
                raise
            if away_since is None:
                away_since = time.monotonic()
                note(f"{error.message} Trying again …")
            if time.monotonic() - away_since > PATIENCE_S:
                raise
        time.sleep(POLL_S)


def _events_since(client: Client, path: str, last_seen: str | None) -> list[Document]:
    """Oldest first. The server lists the newest first, so the pages are read until the last one seen."""
    new = []
    for event in client.pages(f"{path}/events"):
        if event["id"] == last_seen:
            break
        new.append(event)
    return new[::-1]


def event_line(event: Document) -> str:
    at = datetime.fromtimestamp(event["created_at"]).astimezone().strftime("%H:%M:%S")
    level = "" if event["level"] == "info" else f"{event['level']}: "
    return f"{at}  {level}{event['message']}"


class _Plain:
    """A view with nothing to put up or take down."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def state(self, job: Document) -> None:
        """Its events say as much."""


class JsonLines(_Plain):
    def event(self, event: Document) -> None:
        print_json(event)

    def end(self, job: Document) -> None:
        print_json(job)


class Lines(_Plain):
    def event(self, event: Document) -> None:
        print_line(event_line(event))

    def end(self, job: Document) -> None:
        _say_ending(job)


class Bar:
    """The messages scroll by; below them one line with the bar."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=out,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, numbers="")
        self._clock = StepClock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def event(self, event: Document) -> None:
        data = event.get("data") or {}
        if event.get("type") != "metrics" or "step" not in data:
            print_line(event_line(event))
            return
        step, total = data["step"], data["total_steps"]
        numbers = "  ".join(_numbers(data, self._clock.seconds_left(step, total)))
        self._bar.update(self._task, completed=step, total=total, numbers=clean(numbers))

    def state(self, job: Document) -> None:
        phase = (job.get("progress") or {}).get("phase")
        doing = phase if phase and job["status"] == "running" else job["status"]
        self._bar.update(self._task, description=clean(doing))

    def end(self, job: Document) -> None:
        _say_ending(job)


class StepClock:
    """Time left, from the steps seen since watching began: a job that ran before tells nothing of its pace now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def seconds_left(self, step: int, total: int) -> float | None:
        now = self._clock()
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        steps, seconds = step - self._first[0], now - self._first[1]
        return seconds / steps * (total - step) if steps > 0 and seconds > 1 else None


def _numbers(data: dict[str, Any], seconds_left: float | None) -> Iterator[str]:
    yield f"{data['step']}/{data['total_steps']}"
    if data.get("train_loss") is not None:
        yield f"loss {data['train_loss']:.3f}"
    if data.get("valid_loss") is not None:
        yield f"valid {data['valid_loss']:.3f}"
    if data.get("tokens_per_second") is not None:
        yield f"{data['tokens_per_second']:,.0f} tokens/s"
    if seconds_left is not None:
        yield f"{int(seconds_left // 60)}:{int(seconds_left % 60):02d} left"


def _say_ending(job: Document) -> None:
    if job["status"] == "succeeded":
        print_line(f"Succeeded: {job['fine_tuned_model']} ({job.get('trained_tokens') or 0:,} tokens trained)")
        note(f"Download it with: attune adapters download {job['id']}")
    elif job["status"] == "failed":
        error = job.get("error") or {}
        print_error(f"the job failed: {error.get('message', 'no reason given')} ({error.get('code', 'unknown')})")
    else:
        err.print(f"The job was {clean(job['status'])}.", markup=False)
