"""`attune batches watch`: follow the counts of a batch until it ends. With --json, the batch is printed at its end."""

from api.cli.client import Client, Document, segment
from api.cli.console import is_watched, print_error, print_json, print_line, print_note
from api.cli.errors import ExitCode
from api.cli.waiting import watch_counts

EXIT_CODES = {
    "completed": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "expired": ExitCode.JOB_FAILED,
    "cancelled": ExitCode.JOB_CANCELLED,
}


def watch_batch(client: Client, batch_id: str, *, as_json: bool) -> ExitCode:
    """Follow the batch until it ends. Ctrl-C stops watching; the batch keeps running."""
    path = f"/batches/{segment(batch_id)}"
    batch = watch_counts(
        lambda: client.get(path), EXIT_CODES, _describe, subject=batch_id, stage="batch", quiet=as_json
    )
    if batch is None:
        return ExitCode.INTERRUPTED
    if as_json:
        print_json(batch)
    else:
        _print_end(batch)
    return EXIT_CODES[batch["status"]]


def _describe(batch: Document) -> tuple[str, int, int]:
    completed, failed, total = (batch["request_counts"][name] for name in ("completed", "failed", "total"))
    ending = f", {failed} failed" if failed else ""
    of_all = f": {completed} of {total} requests answered{ending}" if total else ""
    return f"{batch['status'].replace('_', ' ')}{of_all}", completed + failed, total


def _print_end(batch: Document) -> None:
    if batch["status"] == "failed":
        first, *others = batch["errors"]["data"]
        where = "" if first["line"] is None else f" in line {first['line']}"
        more = f" (and {len(others)} more: attune batches get {batch['id']})" if others else ""
        print_error(f"the batch failed{where}: {first['message']}{more}")
        return
    if is_watched():
        print_line(_describe(batch)[0].capitalize())
    if batch["output_file_id"] or batch["error_file_id"]:
        print_note(f"Download the answers with: attune batches download {batch['id']}")
