"""`attune api`, `attune worker` and `attune migrate`: the processes of a production deployment."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import structlog
import typer
import uvicorn

from api.cli import deployment
from api.cli.console import print_note, print_result
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import AsJson, Config, DataDirectory, Host, Port, load_operator_settings
from api.cli.process_manager import ManagedProcess, ProcessManager
from api.context import Context
from api.http.uvicorn_protocol import HttpProtocol, HttpServer, make_room
from api.infra.leftover_previews import removing_leftover_previews
from api.infra.logs import configure_logging
from api.infra.tracker_registry import MissingLibrary, require_libraries
from api.main import create_app
from api.records.migrate import schema_version
from api.services.diagnosis import check_libraries
from api.settings import Settings
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage

log = structlog.get_logger(__name__)

BACKLOG = 128
"""Maximum number of connections that the kernel queues until the server accepts them."""

api_app = typer.Typer(add_completion=False)
worker_app = typer.Typer(add_completion=False)
migrate_app = typer.Typer(add_completion=False)


@api_app.command(cls=Command, epilog="Example: attune api --host 0.0.0.0 --port 8000")
def serve_api(
    data_dir: DataDirectory = None,
    host: Host = None,
    port: Port = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="An inherited socket to listen on.")] = None,
    config: Config = None,
) -> None:
    """Serve the API alone. Run `attune migrate` first."""
    settings = load_operator_settings(data_dir, config, host=host, port=port)
    configure_logging(settings.log_level)
    deployment.require(settings)
    if settings.broker_url.get_secret_value():
        _require_broker_password(settings)
    HttpProtocol.max_connections = make_room(settings.max_connections)
    # At least a quarter of the connections is left for other requests.
    streams = min(settings.max_streams, HttpProtocol.max_connections * 3 // 4)
    if streams < settings.max_streams:
        log.warning("fewer_streams", max_streams=streams, max_connections=HttpProtocol.max_connections)
    server = uvicorn.Config(
        create_app(settings.model_copy(update={"max_streams": streams})),
        host=settings.host,
        port=settings.port,
        fd=fd,
        http=HttpProtocol,
        log_config=None,
        access_log=False,  # api.http.middleware logs each request with its id
        server_header=False,
        timeout_graceful_shutdown=10,
        backlog=BACKLOG,
    )
    with removing_leftover_previews(settings):
        HttpServer(server).run()


StageName = StrEnum("StageName", {stage.upper(): stage for stage in (*Stage, SAMPLE, BATCH, EVALUATE, DELIVER)})  # type: ignore[misc]


@worker_app.command(cls=Command, epilog="Example: attune worker --stage train --stage prepare")
def serve_worker(
    stage: Annotated[
        list[StageName] | None,
        typer.Option(help="Run only this stage. Repeatable. Default: all stages."),
    ] = None,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Run a worker alone: it prepares files, trains jobs, samples from models and delivers results.

    Stage `batch` sends the requests of batches to the samplers, and stage `evaluate` grades runs of evals. Results are
    delivered to webhooks, experiment trackers and the Hugging Face Hub.
    """
    settings = load_operator_settings(data_dir, config)
    stages = [str(name) for name in stage or ()] or runnable_stages(settings)
    if stages != [SAMPLE]:  # samplers use no database
        deployment.require(settings)
    if not settings.broker_url.get_secret_value():
        raise CommandError(
            ExitCode.REFUSED, "no broker: set ATTUNE_BROKER_URL to a redis:// address (`attune up` starts its own)."
        )
    deployment.require_connection(settings, wait_s=deployment.BROKER_WAIT_S)
    if DELIVER in stages:
        require_tracker_libraries(settings)
    environment = {**os.environ, **settings.environment()}
    if len(stages) == 1:
        os.execve(sys.executable, worker_command(stages[0]), environment)  # noqa: S606 (replaces this process)
    # One process per stage, so that training never delays the preparation of other jobs.
    processes = ProcessManager(log=lambda text: typer.echo(text, err=True))
    processes.stop_on_signals()
    try:
        for name in stages:
            grace_s = settings.stop_grace_s + 10
            processes.start(ManagedProcess(f"worker ({name})", worker_command(name), environment, grace_s=grace_s))
        processes.watch()
    finally:
        processes.stop()


@migrate_app.command(cls=Command, epilog="Example: attune migrate --data-dir /var/lib/attune")
def migrate_schema(as_json: AsJson = False, data_dir: DataDirectory = None, config: Config = None) -> None:
    """Upgrade the database schema to this version, and tie a new database to its storage."""
    context = Context.open(load_operator_settings(data_dir, config))
    deployment.prepare(context)
    document = {"schema_version": schema_version(context.database)}
    print_result(document, "The database schema is up to date.", as_json=as_json)


def runnable_stages(settings: Settings) -> list[str]:
    """Return the stages that run if no `--stage` is given.

    If this machine lacks the libraries that load models, print a warning and leave out the stages that need them.
    Their workers would end at once and be restarted again and again.
    """
    stages = [*Stage, *([SAMPLE, BATCH, EVALUATE] if settings.sampler else []), DELIVER]
    libraries = check_libraries()
    if libraries.remedy is None:
        return stages
    print_note(f"warning: {libraries.detail}. {libraries.remedy}")
    return [stage for stage in stages if stage not in (Stage.TRAIN, SAMPLE)]


def worker_command(stage: str) -> list[str]:
    """Return the command of a worker process. The API never imports the worker's modules."""
    modules = {BATCH: ["api.batch_worker"], EVALUATE: ["api.eval_worker"]}
    return [sys.executable, "-m", *modules.get(stage, ["worker", stage])]


def require_tracker_libraries(settings: Settings) -> None:
    """Raise CommandError if a configured tracker's library is missing.

    Otherwise the worker would crash and be restarted again and again.
    """
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from error


def _require_broker_password(settings: Settings) -> None:
    """Raise CommandError if the broker refuses the password.

    An unreachable broker is only logged, because workers also find jobs by their regular sweeps of the database.
    """
    try:
        deployment.require_connection(settings, wait_s=0)
    except CommandError as error:
        if error.code is not ExitCode.UNAVAILABLE:
            raise
        log.warning("broker_unreachable", error=str(error))
