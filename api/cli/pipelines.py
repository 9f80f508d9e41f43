"""`attune pipelines`: create, list, get, cancel."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.body import read_body
from api.cli.client import Client, Document, segment
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, connect
from api.cli.console import moment, note, print_fields, print_json, say_result, say_table
from api.cli.errors import ClientCommands, ExitCode
from api.cli.files import After, Limit, upload_file
from api.cli.watch import watch_job

pipelines_app = typer.Typer(
    cls=ClientCommands, no_args_is_help=True, help="Several jobs, each of which begins where another ends."
)

PipelineId = Annotated[str, typer.Argument(metavar="PIPELINE_ID")]


@pipelines_app.command()
def create(
    body_file: Annotated[
        Path, typer.Argument(metavar="FILE.json", help="The pipeline's body (- is stdin); its files may be paths here.")
    ],
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow its jobs until they end.")] = False,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a pipeline: every stage, or none."""
    body = read_body(body_file)
    with connect(base_url, api_key, data_dir) as client:
        _upload_files(client, body)
        made = client.post("/fine_tuning/pipelines", body)
        if not (watch and as_json):
            names = ", ".join(f"{stage['name']} {stage['job_id']}" for stage in made["stages"])
            say_result(made, f"Created {made['id']}: {names}", as_json=as_json)
        if watch:
            raise typer.Exit(_watch(client, made, as_json=as_json))


@pipelines_app.command(name="list")
def list_pipelines(
    *,
    limit: Limit = 20,
    after: After = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the project's pipelines."""
    with connect(base_url, api_key, data_dir) as client:
        found = list(client.pages("/fine_tuning/pipelines", limit=limit, after=after))
    if as_json:
        return print_json({"object": "list", "data": found})
    return say_table(
        ["ID", "STATUS", "MODEL", "CREATED", "STAGES"],
        [
            [each["id"], each["status"], each["model"], moment(each["created_at"]), _stages_in_short(each)]
            for each in found
        ],
    )


@pipelines_app.command()
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
        found = client.get(_path(pipeline_id))
    if as_json:
        return print_json(found)
    print_fields({"id": found["id"], "status": found["status"], "model": found["model"]})
    return say_table(
        ["STAGE", "JOB", "STATUS", "METHOD", "TECHNIQUE", "NEEDS", "FINE-TUNED MODEL"],
        [
            [
                stage["name"],
                stage["job_id"],
                stage["status"],
                stage["method"],
                stage["technique"],
                ", ".join(stage["needs"]) or "-",
                stage["fine_tuned_model"] or "-",
            ]
            for stage in found["stages"]
        ],
    )


@pipelines_app.command()
def cancel(
    pipeline_id: PipelineId,
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End every stage that has not ended, for good."""
    with connect(base_url, api_key, data_dir) as client:
        found = client.post(f"{_path(pipeline_id)}/cancel")
    say_result(found, f"{found['id']} is {found['status']}", as_json=as_json)


def _watch(client: Client, made: Document, *, as_json: bool) -> ExitCode:
    """Stage after stage; the exit code is that of the first that does not succeed."""
    ending = ExitCode.OK
    for stage in made["stages"]:
        note(f"Stage {stage['name']}: {stage['job_id']}")
        code = watch_job(client, stage["job_id"], as_json=as_json)
        if code is ExitCode.INTERRUPTED:
            return code
        ending = ending or code
    return ending


def _upload_files(client: Client, body: Document) -> None:
    """A file that is here is uploaded, once however many stages name it; anything else is for the server to judge."""
    uploaded: dict[str, str] = {}
    for stage in body.get("stages") or []:
        for name in ("training_file", "validation_file"):
            given = stage.get(name) if isinstance(stage, dict) else None
            if not isinstance(given, str) or not Path(given).is_file():
                continue
            if given not in uploaded:
                uploaded[given] = upload_file(client, Path(given))["id"]
                note(f"Uploaded {given} as {uploaded[given]}")
            stage[name] = uploaded[given]


def _stages_in_short(pipeline: Document) -> str:
    return ", ".join(f"{stage['name']} {stage['status']}" for stage in pipeline["stages"])


def _path(pipeline_id: str) -> str:
    return f"/fine_tuning/pipelines/{segment(pipeline_id)}"
