"""`attune jobs watch`: follow a job's events until it ends.

A terminal shows a bar with phase, step, loss, speed and time left, on stderr. Other outputs get a line for each event,
each phase and each reason to wait, on stdout. With --json, each event is a JSON line, followed by the job. If the
server restarts, watching continues when it is back.
"""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from api.cli.client import PAGE, Client, Document, segment
from api.cli.console import (
    clean,
    err,
    is_watched,
    print_error,
    print_json,
    print_line,
    print_note,
    print_result,
)
from api.cli.errors import ExitCode
from api.cli.job_view import AFTER_TRAINING, describe_phase, describe_wait, details_of_failure, time_left, wait_reason
from api.cli.waiting import clock_time, wait_until_ended

EXIT_CODES = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}
MAX_MESSAGES = 10_000
"""Maximum number of earlier messages that a terminal shows."""


class View(Protocol):
    every_step: bool
    """Whether the steps before the command are shown, too."""

    def show_event(self, event: Document) -> None: ...
    def show_status(self, job: Document) -> None: ...
    def show_end(self, job: Document) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def create_job(client: Client, body: Document, *, watch: bool, as_json: bool) -> None:
    """Create a job and print it. With `watch`, follow it until it ends, then raise Exit with the code of its status."""
    job = client.post("/fine_tuning/jobs", body)
    if not (watch and as_json):
        print_result(job, f"Created {job['id']}. Follow it with: attune jobs watch {job['id']}", as_json=as_json)
    if watch:
        raise typer.Exit(watch_job(client, job["id"], as_json=as_json))


def wait_for_job(client: Client, job_id: str, *, timeout_s: float | None, as_json: bool) -> ExitCode:
    """Wait until the job ends. Raise CommandError after the time-out."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    job = wait_until_ended(lambda: client.get(_path(job_id)), EXIT_CODES, subject=job_id, deadline=deadline)
    if as_json:
        print_json(job)
    else:
        _print_end(job)
    return EXIT_CODES[job["status"]]


def watch_job(client: Client, job_id: str, *, as_json: bool) -> ExitCode:
    """Follow the job until it ends. Ctrl-C stops watching; the job keeps running."""
    view: View = JsonView() if as_json else (BarView() if is_watched() else LineView())
    try:
        with view:
            job = _follow(client, job_id, view)
        view.show_end(job)
    except KeyboardInterrupt:
        print_note(f"Stopped watching; {job_id} keeps running. Watch it again with: attune jobs watch {job_id}")
        return ExitCode.INTERRUPTED
    return EXIT_CODES[job["status"]]


def _follow(client: Client, job_id: str, view: View) -> Document:
    path = _path(job_id)
    last_event: str | None = None

    def look() -> Document:
        nonlocal last_event
        job = client.get(path)  # before the events, so that they are complete if the job has ended
        for event in _events_since(client, f"{path}/events", last_event, every_step=view.every_step):
            view.show_event(event)
            last_event = event["id"]
        view.show_status(job)
        return job

    return wait_until_ended(look, EXIT_CODES, subject=job_id)


def _path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{segment(job_id)}"


def _events_since(client: Client, path: str, last_event: str | None, *, every_step: bool) -> list[Document]:
    """Return the events after `last_event`, oldest first. The server lists the newest first.

    Without `last_event` and `every_step`, only the newest steps are included: a job may have a million.
    """
    if last_event is None and not every_step:
        newest: list[Document] = client.get(path, limit=PAGE)["data"]
        after = newest[-1]["id"] if newest else None
        messages = client.listed(path, limit=MAX_MESSAGES, after=after, type="message")["data"]
        return [*newest, *messages][::-1]
    new = []
    for event in client.pages(path):
        if event["id"] == last_event:
            break
        new.append(event)
    return new[::-1]


def format_event(event: Document) -> str:
    level = "" if event["level"] == "info" else f"{event['level']}: "
    return f"{clock_time(event['created_at'])}  {level}{event['message']}"


class _StaticView:
    """A view that only prints lines and needs no set-up."""

    every_step = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        return None

    def show_status(self, job: Document) -> None:
        pass


class JsonView(_StaticView):
    def show_event(self, event: Document) -> None:
        print_json(event)

    def show_end(self, job: Document) -> None:
        print_json(job)


class LineView(_StaticView):
    def __init__(self) -> None:
        self._seen: str | None = None
        self._shown: str | None = None
        """The last reason to wait that was printed."""

    def show_status(self, job: Document) -> None:
        """Print a new reason to wait once two calls in a row have reported it. Steps and phases are printed as
        events."""
        reason = wait_reason(job)
        if reason is not None and reason == self._seen != self._shown:
            print_line(f"{clock_time(time.time())}  Waiting: {describe_wait(job)}")
            self._shown = reason
        self._seen = reason

    def show_event(self, event: Document) -> None:
        print_line(format_event(event))

    def show_end(self, job: Document) -> None:
        _print_end(job)


class BarView:
    """A progress bar below the scrolling messages."""

    every_step = False

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}", markup=False),
            console=err,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, metrics="")
        self._metrics = ""
        """Formatted metrics of the last step."""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def show_event(self, event: Document) -> None:
        data = event.get("data") or {}
        if event.get("type") != "metrics" or "step" not in data:
            self._bar.print(Text(clean(format_event(event))))  # above the bar, on the same stream
            return
        step, total = data["step"], data["total_steps"]
        self._metrics = clean("  ".join(_format_metrics(data)))
        self._bar.update(self._task, completed=step, total=total, metrics=self._metrics)

    def show_status(self, job: Document) -> None:
        description = describe_phase(job) or wait_reason(job) or job["status"]
        left, after = time_left(job), (job.get("progress") or {}).get("phase") in AFTER_TRAINING
        metrics = "  ".join(text for text in ("" if after else self._metrics, f"{left} left" if left else "") if text)
        self._bar.update(self._task, description=clean(description), metrics=metrics)

    def show_end(self, job: Document) -> None:
        _print_end(job)


def _format_metrics(data: Document) -> Iterator[str]:
    yield f"{data['step']}/{data['total_steps']}"
    if data.get("train_loss") is not None:
        yield f"loss {data['train_loss']:.3f}"
    if data.get("valid_loss") is not None:
        yield f"valid {data['valid_loss']:.3f}"
    if data.get("tokens_per_second") is not None:
        yield f"{data['tokens_per_second']:,.0f} tokens/s"


def _print_end(job: Document) -> None:
    if job["status"] == "succeeded":
        print_line(f"Succeeded: {job['fine_tuned_model']} ({job.get('trained_tokens') or 0:,} tokens trained)")
        print_note(f"Download it with: attune adapters download {job['id']}")
    elif job["status"] == "failed":
        error = job.get("error") or {}
        print_error(f"the job failed: {error.get('message', 'no reason given')} ({error.get('code', 'unknown')})")
        print_note(f"More about it: {details_of_failure(job)}")
    else:
        err.print(f"The job was {clean(job['status'])}.", markup=False)
