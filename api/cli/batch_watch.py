"""`attune batches watch`: follow the counts of a batch until it ends.

A terminal shows a bar. Other outputs get a line for each status and for each tenth of the requests. With --json, the
batch is printed at its end.
"""

import time

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api.cli.client import Client, Document, segment
from api.cli.console import clean, out, print_error, print_json, print_line, print_note
from api.cli.errors import ExitCode
from api.cli.waiting import wait_until_ended
from api.cli.watch import clock_time

EXIT_CODES = {
    "completed": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "expired": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}


def watch_batch(client: Client, batch_id: str, *, as_json: bool) -> ExitCode:
    """Follow the batch until it ends. Ctrl-C stops watching; the batch keeps running."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    shown: set[tuple[str, int]] = set()
    try:
        with Progress(*columns, console=out, transient=True, disable=as_json or not out.is_terminal) as bar:
            task = bar.add_task("", total=None)

            def look() -> Document:
                batch = client.get(f"/batches/{segment(batch_id)}")
                counts, text = batch["request_counts"], _describe(batch)
                done = counts["completed"] + counts["failed"]
                bar.update(task, description=clean(text), completed=done, total=counts["total"] or None)
                step = (batch["status"], 10 * done // max(1, counts["total"]))
                if not as_json and not out.is_terminal and step not in shown:
                    print_line(f"{clock_time(time.time())}  {text}")
                shown.add(step)
                return batch

            batch = wait_until_ended(look, EXIT_CODES, subject=batch_id)
    except KeyboardInterrupt:
        print_note(f"Stopped watching; {batch_id} keeps running. Watch it again with: attune batches watch {batch_id}")
        return ExitCode.INTERRUPTED
    if as_json:
        print_json(batch)
    else:
        _print_end(batch)
    return EXIT_CODES[batch["status"]]


def _describe(batch: Document) -> str:
    counts = batch["request_counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    of_all = f": {counts['completed']} of {counts['total']} requests answered{failed}" if counts["total"] else ""
    return f"{batch['status'].replace('_', ' ')}{of_all}"


def _print_end(batch: Document) -> None:
    if batch["status"] == "failed":
        first, *others = batch["errors"]["data"]
        where = "" if first["line"] is None else f" in line {first['line']}"
        more = f" (and {len(others)} more: attune batches get {batch['id']})" if others else ""
        print_error(f"the batch failed{where}: {first['message']}{more}")
        return
    if out.is_terminal:
        print_line(_describe(batch).capitalize())
    if batch["output_file_id"] or batch["error_file_id"]:
        print_note(f"Download the answers with: attune batches download {batch['id']}")
