"""`attune files`: check, upload, list, get, delete, content."""

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import typer

from api.cli import uploads
from api.cli.client import Client, Document, name_field, open_input, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import (
    clean,
    format_size,
    format_time,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_raw,
    print_result,
    transfer_progress,
)
from api.cli.downloads import download_file
from api.cli.errors import CommandError, Commands, ExitCode, RequestRefused
from api.cli.files_check import check
from api.cli.findings import print_findings, summarize_scan
from api.cli.listing import add_list_command, size_of, time_of

files_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Check, upload, list, print and delete files of training rows.",
    epilog="Example: attune files check rows.jsonl",
)

REUSABLE_FILES = 20
"""Number of the newest files with the same content among which `upload_once` looks for a reusable one."""

FileId = Annotated[str, typer.Argument(metavar="FILE_ID", help="An id from `attune files list`.")]


files_app.command(epilog="Example: attune files check rows.jsonl")(check)


@files_app.command(epilog="Example: attune files upload rows.jsonl")
def upload(
    path: Annotated[
        Path,
        typer.Argument(
            help="A file of rows: JSON Lines, a JSON array, CSV or Parquet, also compressed with gzip or Zstandard."
        ),
    ],
    *,
    purpose: Annotated[str, typer.Option(help="Use of the file: fine-tune, batch or evals.")] = "fine-tune",
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Upload a file and print its id, which jobs refer to.

    A file of more than 64 MiB is sent in parts. If that is interrupted, the same command continues it.
    """
    with connect(base_url, api_key, data_dir) as client:
        file = upload_file(client, path, purpose)
    print_result(file, f"Uploaded {file['id']}: {file['filename']}, {format_size(file['bytes'])}", as_json=as_json)


add_list_command(
    files_app,
    "/files",
    {
        "ID": "id",
        "PURPOSE": "purpose",
        "SIZE": size_of("bytes"),
        "CREATED": time_of("created_at"),
        "NAME": "filename",
    },
    summary="List the project's files.",
    example="attune files list --limit 5",
)


@files_app.command(epilog="Example: attune files get file-abc123")
def get(
    file_id: FileId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a file's fields, and every error and warning in it with its line."""
    with connect(base_url, api_key, data_dir) as client:
        file = client.get(f"/files/{segment(file_id)}")
    if as_json:
        return print_json(file)
    scan = file.get("scan")
    times = {name: format_time(file[name]) for name in ("created_at", "expires_at") if file.get(name)}
    fields = {**file, **times, "bytes": format_size(file["bytes"]), "scan": _format_scan(scan)}
    print_fields({name: value for name, value in fields.items() if value is not None and name != "object"})
    if scan and scan["findings"]:
        print_line("")
        print_findings(scan["findings"], scan["finding_counts"])
    return None


@files_app.command(epilog="Example: attune files delete file-abc123")
def delete(
    file_id: FileId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a file. The server refuses this while an unfinished job uses the file."""
    with connect(base_url, api_key, data_dir) as client:
        deleted = client.delete(f"/files/{segment(file_id)}")
    print_result(deleted, f"Deleted {file_id}", as_json=as_json)


@files_app.command(epilog="Example: attune files content file-abc123 --output rows.jsonl")
def content(
    file_id: FileId,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to stdout.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Print a file's content, or save it with --output."""
    path = f"/files/{segment(file_id)}"
    with connect(base_url, api_key, data_dir) as client:
        if output is not None:
            save_content(client, path, output)
            return
        with client.stream_bytes(f"{path}/content") as response:
            _print_content(response)


def save_content(client: Client, path: str, output: Path) -> None:
    """Save the content of the file at the API's `path`. Continue an earlier download that was interrupted."""
    listed = client.get(path)
    with transfer_progress() as progress:
        task = progress.add_task(f"Downloading {clean(output.name)}", total=listed["bytes"])
        download_file(client, f"{path}/content", listed, output, partial(progress.advance, task))
    print_note(f"Saved {output}")


def _print_content(response: httpx.Response) -> None:
    """Print the content: on a terminal without control characters, otherwise unchanged."""
    if sys.stdout.isatty():
        for line in response.iter_lines():
            print_raw(clean(line))
    else:
        for chunk in response.iter_bytes():
            sys.stdout.buffer.write(chunk)


def _format_scan(scan: Document | None) -> str | None:
    if scan is None:
        return None
    if scan["status"] == "pending":
        return "not yet: it waits for a worker that prepares files"
    return summarize_scan(scan)


def upload_file(client: Client, path: Path, purpose: str = "fine-tune") -> Document:
    """Upload a file, in parts if it is large."""
    with open_input(path) as plain, transfer_progress() as progress:
        status = os.fstat(plain.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CommandError(
                ExitCode.REFUSED, f"{path} is a pipe or a device, whose length is unknown: save it first."
            )
        total, description = status.st_size, f"Uploading {clean(path.name)}"
        if total > uploads.MIN_BYTES:
            task = progress.add_task(description, total=total)
            return uploads.upload_in_parts(
                client, plain, path, purpose, lambda count: progress.update(task, completed=count)
            )
        with progress.wrap_file(plain, total=total, description=description) as counted:
            return client.upload(counted, path.name, purpose)


@contextmanager
def file_for(client: Client, file: str, purpose: str) -> Iterator[str]:
    """Yield the id of `file`, which is an id or a local path. A local file is uploaded first.

    It is deleted again if the server refuses the request in the body of the `with` (any 4xx), so that repeated attempts
    leave no copies. Raise CommandError if `file` is neither.
    """
    if not Path(file).is_file():
        require_id(file)
        yield file
        return
    uploaded = upload_file(client, Path(file), purpose)
    print_note(f"Uploaded {file} as {uploaded['id']}")
    try:
        yield str(uploaded["id"])
    except RequestRefused as refusal:
        if refusal.status < 500:  # after a 5xx, the file may be in use: the request may have succeeded
            _delete_unused(client, uploaded["id"])
        raise


def _delete_unused(client: Client, file_id: str) -> None:
    """Delete the file of a refused request. A failure is a note only, because the refusal is the command's error."""
    try:
        client.delete(f"/files/{segment(file_id)}")
    except CommandError as error:
        print_note(f"Could not delete {file_id}: {error.message}")
        print_note(f"Delete it later with: attune files delete {file_id}")
    else:
        print_note(f"Deleted {file_id}, because the request was refused")


def require_id(file: str) -> None:
    if not re.fullmatch(r"file-[A-Za-z0-9_-]+", file):
        raise CommandError(ExitCode.REFUSED, f"{file} is neither a local file nor the id of an uploaded one.")


def upload_once(client: Client, path: Path) -> Document:
    """Return the project's file with the same content, or upload the file if there is none."""
    with open_input(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    same: list[Document] = client.get("/files", sha256=sha256, limit=REUSABLE_FILES)["data"]
    if (found := next((file for file in same if _is_reusable(file)), None)) is not None:
        print_note(f"{path} is already on the server as {found['id']}")
        return found
    uploaded = upload_file(client, path)
    print_note(f"Uploaded {path} as {uploaded['id']}")
    return uploaded


def _is_reusable(file: Document) -> bool:
    return file["purpose"] == "fine-tune" and file.get("expires_at") is None


def _upload_if_local(client: Client, path_or_id: str) -> str:
    """Return the file's id. A local file is uploaded first, unless the project already has one with its content."""
    return str(upload_once(client, Path(path_or_id))["id"]) if Path(path_or_id).is_file() else path_or_id


def attach_files(
    client: Client, body: Document, training: str | None, validation: str | None, *, for_job: bool = False
) -> None:
    """Set the file ids in the body, and upload local files first.

    `training` and `validation` override the files in the body; all of them may be ids or local paths. `for_job`: raise
    CommandError before any upload if the server would refuse the job regardless of the files' content.
    """
    options = {"training_file": training, "validation_file": validation}
    named = {field: body.get(field) if option is None else option for field, option in options.items()}
    files = {field: str(file) for field, file in named.items() if file is not None}
    for file in files.values():
        if not Path(file).is_file():
            require_id(file)
    if for_job and any(Path(file).is_file() for file in files.values()):
        check_recipe(client, body | files)
    for field, file in files.items():
        body[field] = _upload_if_local(client, file)


def check_recipe(client: Client, body: Document) -> None:
    """Raise CommandError if an estimate with placeholder file ids reports any error other than the missing files."""
    fields = ("training_file", "validation_file")
    local = {field: "file-to-be-uploaded" for field in fields if field in body and Path(str(body[field])).is_file()}
    try:
        report = client.post("/fine_tuning/estimates", body | local)
    except RequestRefused as error:
        if error.reason != "file_not_found":
            raise
        return
    for reason in report["reasons"]:
        raise CommandError(ExitCode.REFUSED, name_field(reason["message"], reason["param"]))
