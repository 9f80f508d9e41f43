"""`attune files`: upload, list, get, delete, content."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Client, Document, explained, open_input, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import (
    clean,
    moment,
    note,
    print_fields,
    print_json,
    say_line,
    say_result,
    say_table,
    size,
    transfer_progress,
)
from api.cli.errors import ClientCommands, CommandError, ExitCode, Refusal

files_app = typer.Typer(cls=ClientCommands, no_args_is_help=True, help="Upload and look after files of rows.")

FileId = Annotated[str, typer.Argument(metavar="FILE_ID")]
Limit = Annotated[int, typer.Option(min=1, help="How many, newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Go on after this one.")]


@files_app.command()
def upload(
    path: Annotated[Path, typer.Argument(help="JSON Lines: one example a line.")],
    *,
    purpose: Annotated[str, typer.Option()] = "fine-tune",
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Upload a file; its id names it in a job."""
    with connect(base_url, api_key, data_dir) as client:
        file = upload_file(client, path, purpose)
    say_result(file, f"Uploaded {file['id']}: {file['filename']}, {size(file['bytes'])}", as_json=as_json)


@files_app.command(name="list")
def list_files(
    *,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the project's files."""
    with connect(base_url, api_key, data_dir) as client:
        files = list(client.pages("/files", limit=limit, after=after))
    if as_json:
        return print_json({"object": "list", "data": files})
    say_table(
        ["ID", "PURPOSE", "SIZE", "CREATED", "NAME"],
        [[f["id"], f["purpose"], size(f["bytes"]), moment(f["created_at"]), f["filename"]] for f in files],
    )
    return None


@files_app.command()
def get(
    file_id: FileId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what is known of a file."""
    with connect(base_url, api_key, data_dir) as client:
        file = client.get(f"/files/{segment(file_id)}")
    if as_json:
        return print_json(file)
    shown = {**file, "bytes": size(file["bytes"]), "created_at": moment(file["created_at"])}
    shown["scan"] = _scanned(file.get("scan"))
    return print_fields({name: value for name, value in shown.items() if value is not None and name != "object"})


@files_app.command()
def delete(
    file_id: FileId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a file that no unfinished job needs."""
    with connect(base_url, api_key, data_dir) as client:
        answer = client.delete(f"/files/{segment(file_id)}")
    say_result(answer, f"Deleted {file_id}", as_json=as_json)


@files_app.command()
def content(
    file_id: FileId,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of to stdout.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
) -> None:
    """Print a file's content, or save it with --output."""
    with connect(base_url, api_key, data_dir) as client, client.stream(f"/files/{segment(file_id)}/content") as answer:
        if output is not None:
            with output.open("wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
            note(f"Saved {output}")
        elif sys.stdout.isatty():
            for line in answer.iter_lines():
                say_line(clean(line))
        else:
            for chunk in answer.iter_bytes():
                sys.stdout.buffer.write(chunk)


def upload_file(client: Client, path: Path, purpose: str = "fine-tune") -> Document:
    with open_input(path) as plain, transfer_progress() as progress:
        total = path.stat().st_size
        with progress.wrap_file(plain, total=total, description=f"Uploading {clean(path.name)}") as counted:
            return client.upload(counted, path.name, purpose)


def _scanned(scan: Document | None) -> str | None:
    """In a line: what the file holds, and the first thing that is wrong with it."""
    if scan is None:
        return None
    if scan["status"] == "pending":
        return "pending"
    told = f"{scan['rows'] or 0:,} rows, format {scan['format'] or 'unknown'}"
    counts = ", ".join(f"{code} {count:,}" for code, count in scan["finding_counts"].items())
    first = f"; {scan['findings'][0]['message']}" if scan["findings"] else ""
    return f"{told}{f'; {counts}' if counts else ''}{first}"


def _file_id(client: Client, given: str) -> str:
    """A file that is here is uploaded; else it is an id."""
    if not Path(given).is_file():
        return given
    file = upload_file(client, Path(given))
    note(f"Uploaded {given} as {file['id']}")
    return str(file["id"])


def put_files(
    client: Client, body: Document, training: str | None, validation: str | None, *, for_job: bool = False
) -> None:
    """Into the body, uploaded where they are here: but not for a job that would be refused whatever they hold."""
    given = {"training_file": training, "validation_file": validation}
    named = {name: file for name, file in given.items() if file is not None}
    for file in named.values():
        if not Path(file).is_file() and not re.fullmatch(r"file-[A-Za-z0-9_-]+", file):
            raise CommandError(ExitCode.REFUSED, f"{file} is neither a file here nor the id of an uploaded one.")
    if for_job and any(Path(file).is_file() for file in named.values()):
        _check_recipe(client, body | named)
    for name, file in named.items():
        body[name] = _file_id(client, file)


def _check_recipe(client: Client, body: Document) -> None:
    """An estimate of a job whose files are not there yet: that they are missing is all that may be wrong."""
    names = ("training_file", "validation_file")
    to_come = {name: "file-to-be-uploaded" for name in names if name in body and Path(str(body[name])).is_file()}
    try:
        found = client.post("/fine_tuning/estimates", body | to_come)
    except Refusal as refusal:
        if refusal.reason != "file_not_found":
            raise
        return
    for reason in found["reasons"]:
        raise CommandError(ExitCode.REFUSED, explained(reason["message"], reason["param"]))
