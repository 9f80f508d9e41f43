"""`attune adapters`: download what a job has trained, or a base model, and verify what was published.

Of a download each artifact is fetched by its name and kept only if its SHA-256 is the listed one, so that a file with
its final name is always whole, and a download that was interrupted goes on where it stopped.
"""

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_error, print_fields, print_json, say_result, transfer_progress
from api.cli.errors import ClientCommands, CommandError, ExitCode
from api.spec.file_hash import file_sha256

adapters_app = typer.Typer(cls=ClientCommands, no_args_is_help=True, help="Fetch what was trained, and verify it.")


@adapters_app.command()
def download(
    source: Annotated[str, typer.Argument(metavar="JOB_OR_MODEL", help="A job's id, ft:… or a base model's name.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; else one named after the model.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="The whole model that an adapter makes of its base.")
    ] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="The same as a GGUF file, if the job asked for one.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a model's files into a folder and check each of them."""
    if merged and gguf:
        raise CommandError(ExitCode.REFUSED, "--merged and --gguf are two downloads: ask for one of them.")
    form = "merged" if merged else "gguf" if gguf else None
    with connect(base_url, api_key, data_dir) as client:
        model = _model_of(client, source)
        folder = output or Path(re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-") + (f"-{form}" if form else ""))
        listed = client.get(f"/models/{segment(model)}/artifacts", format=form)["data"]
        artifacts = [{**artifact, "file": _file_name(artifact["name"])} for artifact in listed]
        folder.mkdir(parents=True, exist_ok=True)
        with transfer_progress() as progress:
            task = progress.add_task("Downloading", total=sum(a["bytes"] for a in artifacts))
            for artifact in artifacts:
                progress.update(task, description=artifact["file"])
                url = f"/models/{segment(model)}/artifacts/{segment(artifact['name'])}"
                _fetch(client, url, artifact, folder / artifact["file"], partial(progress.advance, task))
    report = {"model": model, "folder": str(folder), "artifacts": listed}
    say_result(report, f"Downloaded {model} into {folder}: {len(artifacts)} files, all verified.", as_json=as_json)


@adapters_app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A downloaded folder, or a job's .tar.")],
    *,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="PATH_OR_NAME", help="Load the adapter on this base model and compare."),
    ] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Do not load a whole model to compare it.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check, offline, that files are as they were published and say what the trainer's model said."""
    # Here, since it takes numpy and pydantic, which no other of a client's commands needs.
    from api.cli.verify.report import verification_fields, verify_files  # noqa: PLC0415

    found = verify_files(path, base=base, data_dir=data_dir, files_only=files_only)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        print_fields(verification_fields(found))
    if found.problems:
        if not as_json:
            print_error(f"{path} is not what was published.")
        raise typer.Exit(ExitCode.CORRUPT)


def _model_of(client: Client, source: str) -> str:
    if not source.startswith("ftjob-"):
        return source
    job = client.get(f"/fine_tuning/jobs/{segment(source)}")
    if not job.get("fine_tuned_model"):
        raise CommandError(ExitCode.REFUSED, f"{source} is {job['status']}: it has no model to download.")
    return str(job["fine_tuned_model"])


def _file_name(name: str) -> str:
    """The file's name in the folder. The server names the files: a name that leaves the folder is not followed."""
    file = name.removeprefix("merged/").removeprefix("gguf/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file):
        raise CommandError(ExitCode.CORRUPT, f"the server listed a file with a strange name: {name}")
    return file


def _fetch(client: Client, url: str, artifact: Document, path: Path, arrived: Callable[[int], None]) -> None:
    if path.is_file() and file_sha256(path) == artifact["sha256"]:
        arrived(artifact["bytes"])
        return
    unproved, digest = path.with_name(path.name + ".part"), hashlib.sha256()
    with client.stream(url) as answer, unproved.open("wb") as file:
        for chunk in answer.iter_bytes():
            file.write(chunk)
            digest.update(chunk)
            arrived(len(chunk))
    if digest.hexdigest() != artifact["sha256"]:
        unproved.unlink()
        raise CommandError(ExitCode.CORRUPT, f"{path.name} is not what the server lists (its SHA-256 differs).")
    unproved.replace(path)
