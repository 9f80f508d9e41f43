"""`attune jobs`: create, list, get, watch, cancel, pause, resume, events, log."""

from typing import Annotated

import typer

from api.cli.body import job_body, parse_value, require_model_and_file
from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import (
    clean,
    format_time,
    print_fields,
    print_json,
    print_line,
    print_raw,
    print_result,
    print_table,
)
from api.cli.errors import ClientCommands
from api.cli.files import After, Limit, attach_files
from api.cli.job_options import (
    Assignments,
    BatchSize,
    BodyFile,
    Epochs,
    JobCommand,
    MaxSteps,
    Model,
    Rank,
    Technique,
    TrainingFile,
    Validation,
)
from api.cli.watch import format_event, watch_job

jobs_app = typer.Typer(
    cls=ClientCommands,
    no_args_is_help=True,
    add_completion=False,
    help="Create, follow and control fine-tuning jobs.",
    epilog="Example: attune jobs create rows.jsonl --model smollm2-135m-instruct --watch",
)

JobId = Annotated[str, typer.Argument(metavar="JOB_ID")]


@jobs_app.command(
    cls=JobCommand,
    epilog="Example: attune jobs create rows.jsonl --model smollm2-135m-instruct --rank 32 --epochs 2 --watch",
)
def create(
    training_file: TrainingFile = None,
    *,
    model: Model = None,
    validation: Validation = None,
    technique: Technique = None,
    rank: Rank = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: Annotated[
        str | None, typer.Option(metavar="NUMBER|auto", parser=str, help="Peak learning rate. Default: auto.")
    ] = None,
    max_steps: MaxSteps = None,
    suffix: Annotated[str | None, typer.Option(help="Becomes part of the fine-tuned model's name.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes the job reproducible. Default: a random seed, which the job records.")
    ] = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a job, uploading its local files first."""
    fields = {
        "model": model,
        "suffix": suffix,
        "seed": seed,
        "technique.type": technique,
        "technique.rank": rank,
        "training.learning_rate": parse_value(learning_rate),
        "training.max_steps": max_steps,
    }
    hyperparameters = {"n_epochs": parse_value(epochs), "batch_size": parse_value(batch_size)}
    body = job_body(body_file, fields, hyperparameters, assignments)
    require_model_and_file(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        attach_files(client, body, training_file, validation, for_job=True)
        job = client.post("/fine_tuning/jobs", body)
        if not (watch and as_json):
            print_result(job, f"Created {job['id']}. Follow it with: attune jobs watch {job['id']}", as_json=as_json)
        if watch:
            raise typer.Exit(watch_job(client, job["id"], as_json=as_json))


@jobs_app.command(name="list", epilog="Example: attune jobs list --limit 5")
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
    return print_table(
        ["ID", "STATUS", "BASE MODEL", "CREATED", "FINE-TUNED MODEL"],
        [[j["id"], j["status"], j["model"], format_time(j["created_at"]), j["fine_tuned_model"] or "-"] for j in jobs],
    )


@jobs_app.command(epilog="Example: attune jobs get ftjob-abc123")
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


@jobs_app.command(epilog="Example: attune jobs watch ftjob-abc123")
def watch(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends.

    The exit code is 0 if it succeeded, 1 if it failed and 3 if it was cancelled. With --json, each event is a line, and
    the job is the last one.
    """
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(watch_job(client, job_id, as_json=as_json))


@jobs_app.command(epilog="Example: attune jobs cancel ftjob-abc123")
def cancel(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Cancel a job. It ends without a model and cannot be resumed."""
    _act(job_id, "cancel", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command(epilog="Example: attune jobs pause ftjob-abc123")
def pause(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Pause a job at its next saved state; `attune jobs resume` continues it."""
    _act(job_id, "pause", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command(epilog="Example: attune jobs resume ftjob-abc123")
def resume(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Resume a paused job from its last saved state."""
    _act(job_id, "resume", connect(base_url, api_key, data_dir), as_json)


@jobs_app.command(epilog="Example: attune jobs events ftjob-abc123 --limit 50")
def events(
    job_id: JobId,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Number of events to print, the newest ones, oldest first.")] = 20,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print the events of a job."""
    with connect(base_url, api_key, data_dir) as client:
        newest = list(client.pages(f"{_path(job_id)}/events", limit=limit))
    if as_json:
        return print_json({"object": "list", "data": newest[::-1]})
    for event in newest[::-1]:
        print_line(format_event(event))
    return None


@jobs_app.command(epilog="Example: attune jobs log ftjob-abc123")
def log(job_id: JobId, *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None) -> None:
    """Print the log of a job's trainer, attempt by attempt."""
    with connect(base_url, api_key, data_dir) as client, client.stream_bytes(f"{_path(job_id)}/log") as response:
        for line in response.iter_lines():
            print_raw(clean(line))


def _act(job_id: str, action: str, client: Client, as_json: bool) -> None:
    with client:
        job = client.post(f"{_path(job_id)}/{action}")
    pending = " (it pauses once its state is saved)" if action == "pause" and job["status"] == "running" else ""
    print_result(job, f"{job['id']} is {job['status']}{pending}", as_json=as_json)


def _path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{segment(job_id)}"


def _fields(job: Document) -> dict[str, object]:
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
        "created": format_time(job["created_at"]),
        "finished": format_time(job["finished_at"]) if job.get("finished_at") else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _evaluation(report: Document | None) -> str | None:
    """Return the metrics that both models have, as "base → tuned"."""
    if not report:
        return None
    changes = [
        f"{name} {report['base'][name]:.4g} → {tuned:.4g}"
        for name, tuned in report["tuned"].items()
        if tuned is not None and report["base"].get(name) is not None
    ]
    return f"{', '.join(changes)} (base → tuned, {report['rows']} {report['drawn_from']} rows)"
