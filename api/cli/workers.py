"""`attune workers`: the processes that do the work."""

from time import time

import typer

from api.cli.client import Document
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_duration, format_size, print_json, print_note
from api.cli.errors import Command
from api.cli.listing import Columns, print_documents

workers_app = typer.Typer(add_completion=False)


@workers_app.command(cls=Command, epilog="Example: attune workers")
def workers(
    *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """List the workers: what each does, its hardware, and when it last reported."""
    with connect(base_url, api_key, data_dir) as client:
        listing = client.get("/workers")
    if as_json:
        return print_json(listing)
    if not listing["data"]:
        return print_note("No worker has reported in the last day. Start one with `attune up` or `attune worker`.")
    print_documents(listing["data"], COLUMNS)
    for worker in listing["data"]:
        if worker["paused_reason"]:
            print_note(f"{worker['host']} takes no work: {worker['paused_reason']}")
    return None


def count_busy_slots(worker: Document) -> int:
    """Return the number of busy slots of a worker. A scan of a file takes none."""
    return sum(work["kind"] != "scan" for work in worker["busy"])


def _describe_work(worker: Document) -> str:
    if worker["answering"]:
        return f"{worker['answering']} {'request' if worker['answering'] == 1 else 'requests'}"
    return ", ".join(f"{work['kind']} {work['job_id'] or ''}".strip() for work in worker["busy"])


COLUMNS: Columns = {
    "HOST": "host",
    "STAGES": lambda worker: ", ".join(worker["stages"]),
    "STATUS": "status",
    "BUSY": lambda worker: f"{count_busy_slots(worker) + (worker['answering'] or 0)} of {worker['slots']}",
    "WORK": _describe_work,
    "DEVICE": "device",
    "GPUS": "gpus",
    "MEMORY": lambda worker: format_size(worker["gpu_memory_bytes"] or worker["memory_bytes"]),
    "LAST REPORT": lambda worker: f"{format_duration(max(0, time() - worker['last_beat_at']))} ago",
}
