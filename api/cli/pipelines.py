"""`attune pipelines`: create, list, get, cancel."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.body import read_body
from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import print_fields, print_json, print_note, print_result
from api.cli.errors import Commands, ExitCode
from api.cli.files import upload_once
from api.cli.listing import Columns, add_list_command, print_documents, time_of
from api.cli.watch import watch_job

pipelines_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    help="Run several jobs, each starting from the result of another.",
    epilog="Example: attune pipelines create rlhf.json --watch",
)

PipelineId = Annotated[str, typer.Argument(metavar="PIPELINE_ID")]

STAGES: Columns = {
    "STAGE": "name",
    "JOB": "job_id",
    "STATUS": "status",
    "METHOD": "method",
    "TECHNIQUE": "technique",
    "NEEDS": lambda stage: ", ".join(stage["needs"]),
    "FINE-TUNED MODEL": "fine_tuned_model",
}


@pipelines_app.command(epilog="Example: attune pipelines create rlhf.json --watch")
def create(
    body_file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.json",
            help="A JSON file with the request body, or - for stdin. Files may be named by local paths.",
        ),
    ],
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the jobs until they end.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a pipeline with all of its jobs. If one job is refused, nothing is created."""
    body = read_body(body_file)
    with connect(base_url, api_key, data_dir) as client:
        _upload_named_files(client, body)
        created = client.post("/fine_tuning/pipelines", body)
        if not (watch and as_json):
            names = ", ".join(f"{stage['name']} {stage['job_id']}" for stage in created["stages"])
            print_result(created, f"Created {created['id']}: {names}", as_json=as_json)
        if watch:
            raise typer.Exit(_watch(client, created, as_json=as_json))


add_list_command(
    pipelines_app,
    "/fine_tuning/pipelines",
    {
        "ID": "id",
        "STATUS": "status",
        "MODEL": "model",
        "CREATED": time_of("created_at"),
        "STAGES": lambda pipeline: ", ".join(f"{stage['name']} {stage['status']}" for stage in pipeline["stages"]),
    },
    summary="List the project's pipelines.",
    example="attune pipelines list --limit 5",
)


@pipelines_app.command(epilog="Example: attune pipelines get ftpipe-abc123")
def get(
    pipeline_id: PipelineId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a pipeline and its stages."""
    with connect(base_url, api_key, data_dir) as client:
        pipeline = client.get(_path(pipeline_id))
    if as_json:
        return print_json(pipeline)
    print_fields({"id": pipeline["id"], "status": pipeline["status"], "model": pipeline["model"]})
    return print_documents(pipeline["stages"], STAGES)


@pipelines_app.command(epilog="Example: attune pipelines cancel ftpipe-abc123")
def cancel(
    pipeline_id: PipelineId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Cancel all jobs of a pipeline that have not ended. Cancelled jobs cannot be resumed."""
    with connect(base_url, api_key, data_dir) as client:
        pipeline = client.post(f"{_path(pipeline_id)}/cancel")
    print_result(pipeline, f"{pipeline['id']} is {pipeline['status']}", as_json=as_json)


def _watch(client: Client, created: Document, *, as_json: bool) -> ExitCode:
    """Follow the stages in order and return the exit code of the first that does not succeed."""
    exit_code = ExitCode.OK
    for stage in created["stages"]:
        print_note(f"Stage {stage['name']}: {stage['job_id']}")
        code = watch_job(client, stage["job_id"], as_json=as_json)
        if code is ExitCode.INTERRUPTED:
            return code
        exit_code = exit_code or code
    return exit_code


def _upload_named_files(client: Client, body: Document) -> None:
    """Upload each local file that stages name, and put its id in place of the path. A file that several stages name is
    uploaded once. The server checks everything else."""
    uploaded: dict[str, str] = {}
    for stage in body.get("stages") or []:
        for name in ("training_file", "validation_file"):
            file = stage.get(name) if isinstance(stage, dict) else None
            if not isinstance(file, str) or not Path(file).is_file():
                continue
            if file not in uploaded:
                uploaded[file] = upload_once(client, Path(file))["id"]
            stage[name] = uploaded[file]


def _path(pipeline_id: str) -> str:
    return f"/fine_tuning/pipelines/{segment(pipeline_id)}"
