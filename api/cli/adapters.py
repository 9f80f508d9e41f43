"""`attune adapters`: download a fine-tuned or base model, verify published files, delete a fine-tuned model."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from api.cli.client import Client, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import plural, print_error, print_fields, print_json, print_result, transfer_progress
from api.cli.downloads import download_file
from api.cli.errors import CommandError, Commands, ExitCode

adapters_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Download, verify and delete fine-tuned models.",
    epilog="Example: attune adapters download ftjob-abc123 --output my-adapter",
)


@adapters_app.command(epilog="Example: attune adapters download ftjob-abc123 --output my-adapter")
def download(
    source: Annotated[
        str, typer.Argument(metavar="JOB_OR_MODEL", help="A job's id, a fine-tuned model (ft:…) or a base model.")
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files. Default: named after the model.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Download the base model with the adapter merged into it.")
    ] = False,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Download the merged model as a GGUF file, if the job exported one.")
    ] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a model's files into a folder and check the SHA-256 of each."""
    if merged and gguf:
        raise CommandError(ExitCode.REFUSED, "--merged and --gguf exclude each other: give one of them.")
    variant = "merged" if merged else "gguf" if gguf else None
    with connect(base_url, api_key, data_dir) as client:
        model = _resolve_model(client, source)
        folder = output or Path(
            re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-") + (f"-{variant}" if variant else "")
        )
        listed = client.get(f"/models/{segment(model)}/artifacts", format=variant)["data"]
        artifacts = [{**artifact, "file": _local_name(artifact["name"])} for artifact in listed]
        folder.mkdir(parents=True, exist_ok=True)
        with transfer_progress() as progress:
            task = progress.add_task("Downloading", total=sum(a["bytes"] for a in artifacts))
            for artifact in artifacts:
                progress.update(task, description=artifact["file"])
                url = f"/models/{segment(model)}/artifacts/{segment(artifact['name'])}"
                download_file(client, url, artifact, folder / artifact["file"], partial(progress.advance, task))
    report = {"model": model, "folder": str(folder), "artifacts": listed}
    print_result(
        report,
        f"Downloaded {model} into {folder}: {plural(len(artifacts), 'file')}, all with the listed SHA-256.",
        as_json=as_json,
    )


@adapters_app.command(epilog="Example: attune adapters verify my-adapter --base smollm2-135m-instruct")
def verify(
    path: Annotated[Path, typer.Argument(help="A downloaded folder, or the .tar of a job.")],
    *,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="PATH_OR_NAME",
            help="Load the adapter on this base model and compare its outputs with the recorded ones.",
        ),
    ] = None,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check the files without loading the model.")
    ] = False,
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key",
            metavar="URL_OR_FILE",
            help="Require a signature by the server at this address, or by the keys in a saved attune-keys.json.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check offline that files are as published and that the model gives the outputs recorded in training."""
    # Imported here, because no other client command needs numpy and the manifest's pydantic models.
    from api.cli.verify.report import verification_fields, verify_files  # noqa: PLC0415

    report = verify_files(path, base=base, data_dir=data_dir, files_only=files_only, public_key=public_key)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_fields(verification_fields(report))
    if report.problems:
        if not as_json:
            print_error(f"{path} differs from what was published.")
        raise typer.Exit(ExitCode.CORRUPT)


@adapters_app.command(epilog="Example: attune adapters delete ft:smollm2-135m-instruct:attune:cards:dlv6G4Nt")
def delete(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fine-tuned model (ft:…), or the job that made it.")],
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a fine-tuned model with its checkpoints and files. This cannot be undone."""
    with connect(base_url, api_key, data_dir) as client:
        name = _resolve_model(client, model)
        deleted = client.delete(f"/models/{segment(name)}")
    print_result(deleted, f"Deleted {name}", as_json=as_json)


def _resolve_model(client: Client, source: str) -> str:
    if not source.startswith("ftjob-"):
        return source
    job = client.get(f"/fine_tuning/jobs/{segment(source)}")
    if not job.get("fine_tuned_model"):
        raise CommandError(ExitCode.REFUSED, f"{source} is {job['status']}: it has no model.")
    return str(job["fine_tuned_model"])


def _local_name(name: str) -> str:
    """Return the file's name in the download folder. Raise CommandError for a name that could point outside it."""
    file = name.removeprefix("merged/").removeprefix("gguf/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", file):
        raise CommandError(ExitCode.CORRUPT, f"the server lists a file with an unsafe name: {name}")
    return file
