"""`attune jobs`: create, list, get, watch, cancel, pause, resume, events, log."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.body import job_body, require_named, value_of
from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import clean, moment, print_fields, print_json, print_line, say_line, say_result, say_table
from api.cli.errors import ClientCommands
from api.cli.files import After, Limit, put_files
from api.cli.watch import event_line, watch_job

jobs_app = typer.Typer(cls=ClientCommands, no_args_is_help=True, help="Create and follow fine-tuning jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB_ID")]
AutoNumber = Annotated[str | None, typer.Option(metavar="NUMBER|auto", parser=str)]


@jobs_app.command()
def create(
    training_file: Annotated[
        str | None,
        typer.Argument(metavar="FILE_OR_ID", help="A file here, which is uploaded, or an uploaded one's id."),
    ] = None,
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help="A base model, or ft:… to go on from it.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="FILE_OR_ID")] = None,
    technique: Annotated[
        str | None, typer.Option(help="Which weights are trained; `attune catalog` lists them. Default: lora.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the technique.")] = None,
    epochs: AutoNumber = None,
    batch_size: AutoNumber = None,
    learning_rate: AutoNumber = None,
    max_steps: Annotated[int | None, typer.Option()] = None,
    suffix: Annotated[str | None, typer.Option(help="Becomes part of the tuned model's name.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other field: training.max_length=512.")
    ] = None,
    body_file: Annotated[
        Path | None, typer.Option("--body", help="A JSON file with the job's body (- is stdin); options override it.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a job."""
    values = {
        "model": model,
        "suffix": suffix,
        "seed": seed,
        "technique.type": technique,
        "technique.rank": rank,
        "training.learning_rate": value_of(learning_rate),
        "training.max_steps": max_steps,
    }
    numbers = {"n_epochs": value_of(epochs), "batch_size": value_of(batch_size)}
    body = job_body(body_file, values, numbers, assignments)
    require_named(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        put_files(client, body, training_file, validation, for_job=True)
        job = client.post("/fine_tuning/jobs", body)
        if not (watch and as_json):
            say_result(job, f"Created {job['id']}. Follow it with: attune jobs watch {job['id']}", as_json=as_json)
        if watch:
            raise typer.Exit(watch_job(client, job["id"], as_json=as_json))


@jobs_app.command(name="list")
def list_jobs(
    *,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the project's jobs."""
    with connect(base_url, api_key, data_dir) as client:
        jobs = list(client.pages("/fine_tuning/jobs", limit=limit, after=after))
    if as_json:
        return print_json({"object": "list", "data": jobs})
    return say_table(
        ["ID", "STATUS", "BASE MODEL", "CREATED", "FINE-TUNED MODEL"],
        [[j["id"], j["status"], j["model"], moment(j["created_at"]), j["fine_tuned_model"] or "-"] for j in jobs],
    )


@jobs_app.command()
def get(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a job."""
    with connect(base_url, api_key, data_dir) as client:
        job = client.get(_path(job_id))
    if as_json:
        print_json(job)
    else:
        print_fields(_fields(job))


@jobs_app.command()
def watch(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends; the exit code says how. With --json: each event on a line, then the job."""
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(watch_job(client, job_id, as_json=as_json))


@jobs_app.command()
def cancel(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a job for good, without a result."""
    _act(job_id, "cancel", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command()
def pause(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Stop a job at its next saved state, to go on later."""
    _act(job_id, "pause", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command()
def resume(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a paused job go on from where it stopped."""
    _act(job_id, "resume", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command()
def events(
    job_id: JobId,
    *,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many, oldest first.")] = 20,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print what happened to a job."""
    with connect(base_url, api_key, data_dir) as client:
        newest = list(client.pages(f"{_path(job_id)}/events", limit=limit))
    if as_json:
        return print_json({"object": "list", "data": newest[::-1]})
    for event in newest[::-1]:
        print_line(event_line(event))
    return None


@jobs_app.command()
def log(job_id: JobId, *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None) -> None:
    """Print what the trainers of a job wrote, attempt by attempt."""
    with connect(base_url, api_key, data_dir) as client, client.stream(f"{_path(job_id)}/log") as response:
        for line in response.iter_lines():
            say_line(clean(line))


def _act(job_id: str, action: str, client: Client, as_json: bool) -> None:
    with client:
        job = client.post(f"{_path(job_id)}/{action}")
    note_of_pause = " (it pauses once its state is saved)" if action == "pause" and job["status"] == "running" else ""
    say_result(job, f"{job['id']} is {job['status']}{note_of_pause}", as_json=as_json)


def _path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{segment(job_id)}"


def _fields(job: Document) -> dict[str, Any]:
    error = job.get("error") or {}
    hyperparameters = ", ".join(f"{name} {value}" for name, value in (job.get("hyperparameters") or {}).items())
    fields = {
        "id": job["id"],
        "status": job["status"],
        "base model": job["model"],
        "fine-tuned model": job.get("fine_tuned_model"),
        "error": f"{error['message']} ({error['code']})" if error else None,
        "technique": (job.get("technique") or {}).get("type"),
        "method": (job.get("method") or {}).get("type"),
        "hyperparameters": hyperparameters or None,
        "trained tokens": job.get("trained_tokens"),
        "evaluation": _evaluation(job.get("evaluation")),
        "training file": job["training_file"],
        "validation file": job.get("validation_file"),
        "result files": ", ".join(job.get("result_files") or []) or None,
        "seed": job.get("seed"),
        "created": moment(job["created_at"]),
        "finished": moment(job["finished_at"]) if job.get("finished_at") else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _evaluation(found: Document | None) -> str | None:
    """Base → tuned, of what both have."""
    if not found:
        return None
    gains = [
        f"{name} {found['base'][name]:.4g} → {tuned:.4g}"
        for name, tuned in found["tuned"].items()
        if tuned is not None and found["base"].get(name) is not None
    ]
    return f"{', '.join(gains)} (base → tuned, {found['rows']} {found['drawn_from']} rows)"
