"""`attune batches`: create, list, get, watch, cancel, download."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from api.cli.batch_watch import watch_batch
from api.cli.client import Client, Document, json_lines, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import format_time, print_fields, print_json, print_line, print_result
from api.cli.errors import CommandError, Commands, ExitCode
from api.cli.files import file_for, save_content
from api.cli.listing import add_list_command, time_of

batches_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Answer the requests of a file in the background.",
    epilog="Example: attune batches create requests.jsonl --watch",
)

DEFAULT_ENDPOINT = "/v1/chat/completions"
FILES = {"output_file_id": "output.jsonl", "error_file_id": "errors.jsonl"}
"""{field of the batch that has the id of a file: name of the downloaded file}."""

BatchId = Annotated[str, typer.Argument(metavar="BATCH_ID", help="An id from `attune batches list`.")]


@batches_app.command(epilog="Example: attune batches create requests.jsonl --watch")
def create(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_ID",
            help="JSON lines of custom_id, method, url and body: a local file, which is uploaded, or the id of a file.",
        ),
    ],
    *,
    endpoint: Annotated[
        str | None, typer.Option(help="The url of every line. Default: that of the first line.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the batch until it ends.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a batch, uploading its local file first."""
    with connect(base_url, api_key, data_dir) as client:
        body = {"endpoint": endpoint or _first_url(client, file), "completion_window": "24h"}
        with file_for(client, file, "batch") as requests:
            batch = client.post("/batches", body | {"input_file_id": requests})
        if not (watch and as_json):
            text = f"Created {batch['id']}. Follow it with: attune batches watch {batch['id']}"
            print_result(batch, text, as_json=as_json)
        if watch:
            raise typer.Exit(watch_batch(client, batch["id"], as_json=as_json))


def _first_url(client: Client, file: str) -> str:
    """Return the `url` in the file's first line. Without one, return the default, and the server reports the line."""
    if Path(file).is_file():
        with Path(file).open(encoding="utf-8", errors="replace") as lines:
            return _url_of_first(lines)
    if not file.startswith("file-"):
        return DEFAULT_ENDPOINT
    with client.stream_bytes(f"/files/{segment(file)}/content") as response:
        return _url_of_first(json_lines(response))


def _url_of_first(lines: Iterable[str | bytes]) -> str:
    try:
        return str(json.loads(next(iter(lines), ""))["url"])
    except (ValueError, KeyError, TypeError):
        return DEFAULT_ENDPOINT


add_list_command(
    batches_app,
    "/batches",
    {
        "ID": "id",
        "STATUS": "status",
        "ENDPOINT": "endpoint",
        "MODEL": "model",
        "CREATED": time_of("created_at"),
        "REQUESTS": lambda batch: batch["request_counts"]["total"],
        "ANSWERED": lambda batch: batch["request_counts"]["completed"],
        "FAILED": lambda batch: batch["request_counts"]["failed"],
    },
    summary="List the project's batches.",
    example="attune batches list --limit 5",
)


@batches_app.command(epilog="Example: attune batches get batch_abc123")
def get(
    batch_id: BatchId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a batch, and every error in its file with its line."""
    with connect(base_url, api_key, data_dir) as client:
        batch = client.get(_path(batch_id))
    if as_json:
        return print_json(batch)
    print_fields(_fields(batch))
    for error in (batch["errors"] or {"data": []})["data"]:
        line = "" if error["line"] is None else f"line {error['line']}: "
        print_line(f"{line}{error['message']} ({error['code']})")
    return None


def _fields(batch: Document) -> Document:
    """Return the batch's fields that have a value, with times and counts formatted for people."""
    counts, usage = batch["request_counts"], batch["usage"]
    fields = {name: value for name, value in batch.items() if not isinstance(value, (dict, list)) and value is not None}
    times = {name: format_time(value) for name, value in fields.items() if name.endswith("_at")}
    del fields["object"]
    return {
        **fields,
        **times,
        "requests": f"{counts['completed']} answered, {counts['failed']} failed, of {counts['total']}",
        "tokens": f"{usage['input_tokens']:,} read, {usage['output_tokens']:,} written",
        **({"metadata": json.dumps(batch["metadata"])} if batch["metadata"] else {}),
    }


@batches_app.command(epilog="Example: attune batches watch batch_abc123")
def watch(
    batch_id: BatchId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow a batch until it ends.

    The exit code is 0 if it completed, 1 if it failed or expired and 3 if it was cancelled.
    """
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(watch_batch(client, batch_id, as_json=as_json))


@batches_app.command(epilog="Example: attune batches cancel batch_abc123")
def cancel(
    batch_id: BatchId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Cancel a batch. The answers until now stay available in its files."""
    with connect(base_url, api_key, data_dir) as client:
        batch = client.post(f"{_path(batch_id)}/cancel")
    print_result(batch, f"{batch['id']} is {batch['status']}", as_json=as_json)


@batches_app.command(epilog="Example: attune batches download batch_abc123 --output answers")
def download(
    batch_id: BatchId,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files. Default: named after the batch.")
    ] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download the answers (output.jsonl) and the errors (errors.jsonl) of an ended batch, and check their SHA-256."""
    with connect(base_url, api_key, data_dir) as client:
        batch = client.get(_path(batch_id))
        listed = {name: batch[field] for field, name in FILES.items() if batch[field] is not None}
        if not listed:
            status = batch["status"]
            state = "it failed" if status == "failed" else f"it is {status.replace('_', ' ')}"
            raise CommandError(ExitCode.REFUSED, f"{batch_id} has no files: {state}.")
        folder = output or Path(re.sub(r"[^A-Za-z0-9_-]+", "-", batch_id))
        folder.mkdir(parents=True, exist_ok=True)
        for name, stored in listed.items():
            save_content(client, f"/files/{segment(stored)}", folder / name)
    report = {"batch": batch_id, "folder": str(folder), "files": listed}
    print_result(report, f"Downloaded {' and '.join(listed)} of {batch_id} into {folder}", as_json=as_json)


def _path(batch_id: str) -> str:
    return f"/batches/{segment(batch_id)}"
