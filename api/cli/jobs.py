"""`attune jobs`: create, list, follow and control jobs. The group also gets the commands of other modules."""

from collections.abc import Callable
from typing import Annotated

import typer

from api.cli.body import job_body, parse_value, require_model_and_file
from api.cli.client import Client, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import (
    clean,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_raw,
    print_result,
)
from api.cli.errors import Commands
from api.cli.files import attach_files
from api.cli.job_copies import clone, rerun
from api.cli.job_list import list_jobs
from api.cli.job_options import (
    Assignments,
    BatchSize,
    BodyFile,
    Epochs,
    JobCommand,
    JobId,
    LearningRate,
    MaxSteps,
    Method,
    Model,
    Rank,
    Seed,
    Suffix,
    Technique,
    TrainingFile,
    Validation,
    Watch,
)
from api.cli.job_results import checkpoints, compare, metrics
from api.cli.job_view import job_fields
from api.cli.watch import create_job, format_event, wait_for_job, watch_job

jobs_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Create, follow, compare and control fine-tuning jobs.",
    epilog="Example: attune jobs create rows.jsonl --model smollm2-135m-instruct --watch",
)


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
    method: Method = None,
    rank: Rank = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    max_steps: MaxSteps = None,
    suffix: Suffix = None,
    seed: Seed = None,
    assignments: Assignments = None,
    body_file: BodyFile = None,
    watch: Watch = False,
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
        "method.type": method,
        "training.learning_rate": parse_value(learning_rate),
        "training.max_steps": max_steps,
    }
    hyperparameters = {"n_epochs": parse_value(epochs), "batch_size": parse_value(batch_size)}
    body = job_body(body_file, fields, hyperparameters, assignments)
    require_model_and_file(body, training_file)
    with connect(base_url, api_key, data_dir) as client:
        attach_files(client, body, training_file, validation, for_job=True)
        create_job(client, body, watch=watch, as_json=as_json)


@jobs_app.command(epilog="Example: attune jobs get ftjob-abc123")
def get(
    job_id: JobId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a job: its phase, why it waits, its worker, its settings, and its predicted and actual cost."""
    with connect(base_url, api_key, data_dir) as client:
        job = client.get(_path(job_id))
        if as_json:
            return print_json(job)
        attempts = client.get(f"{_path(job_id)}/attempts")["data"]
        steps = client.get(f"{_path(job_id)}/metrics", max_points=2)["data"] if job.get("progress") else []
    return print_fields(job_fields(job, attempts[-1] if attempts else None, steps[-1] if steps else None))


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

    The exit code is 0 if it succeeded, 1 if it failed and 3 if it was cancelled. With --json, each event is printed
    as a line, and the job as the last line.
    """
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(watch_job(client, job_id, as_json=as_json))


@jobs_app.command(epilog="Example: attune jobs wait ftjob-abc123 --timeout 3600")
def wait(
    job_id: JobId,
    *,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after this many seconds.")] = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Wait silently until a job ends, for scripts.

    The exit code is that of `watch`, or 4 after --timeout. The job is printed at its end.
    """
    with connect(base_url, api_key, data_dir) as client:
        raise typer.Exit(wait_for_job(client, job_id, timeout_s=timeout, as_json=as_json))


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
    limit: Annotated[int, typer.Option(min=1, help="Number of the newest events to print, oldest first.")] = 20,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print the events of a job."""
    with connect(base_url, api_key, data_dir) as client:
        events = client.listed(f"{_path(job_id)}/events", limit=limit)
    events["data"].reverse()
    if as_json:
        return print_json(events)
    if not events["data"]:
        print_note("The job has no events.")
    for event in events["data"]:
        print_line(format_event(event))
    if events["has_more"]:
        print_note(f"These are the last {len(events['data'])} events; use a larger --limit to see earlier ones.")
    return None


@jobs_app.command(epilog="Example: attune jobs log ftjob-abc123")
def log(job_id: JobId, *, base_url: BaseUrl = None, api_key: ApiKey = None, data_dir: DataDir = None) -> None:
    """Print the log of a job's trainer, attempt by attempt."""
    with connect(base_url, api_key, data_dir) as client, client.stream_bytes(f"{_path(job_id)}/log") as response:
        for line in response.iter_lines():
            print_raw(clean(line))


EXAMPLES: dict[Callable[..., None], str] = {
    metrics: "attune jobs metrics ftjob-abc123 --max-points 50",
    checkpoints: "attune jobs checkpoints ftjob-abc123",
    compare: "attune jobs compare ftjob-abc123 ftjob-def456",
    rerun: "attune jobs rerun ftjob-abc123 --watch",
}
jobs_app.command(name="list", epilog="Example: attune jobs list --status failed --method dpo --metadata team=maps")(
    list_jobs
)
for command, example in EXAMPLES.items():
    jobs_app.command(epilog=f"Example: {example}")(command)
jobs_app.command(cls=JobCommand, epilog="Example: attune jobs clone ftjob-abc123 --rank 64 --epochs 3 --watch")(clone)


def _act(job_id: str, action: str, client: Client, as_json: bool) -> None:
    with client:
        job = client.post(f"{_path(job_id)}/{action}")
    pending = " (it pauses once its state is saved)" if action == "pause" and job["status"] == "running" else ""
    print_result(job, f"{job['id']} is {job['status']}{pending}", as_json=as_json)


def _path(job_id: str) -> str:
    return f"/fine_tuning/jobs/{segment(job_id)}"
