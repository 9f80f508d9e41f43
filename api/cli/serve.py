"""`attune api`, `attune worker`, `attune migrate`: the parts of a production set-up, each on its own."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import structlog
import typer
import uvicorn

from api.cli.options import Config, DataDirectory, Host, Port, operator_settings
from api.cli.process_manager import ManagedProcess, ProcessManager
from api.http.uvicorn_protocol import HttpProtocol, HttpServer, make_room
from api.infra.logs import configure_logging
from api.infra.trackers import MissingLibrary, require_libraries
from api.main import create_app
from api.records import Database
from api.records.migrate import WrongSchema, migrate, require_current
from api.settings import Settings
from api.spec.lifecycle import DELIVER, SAMPLE, Stage

log = structlog.get_logger(__name__)

BACKLOG = 128
"""Connections that the kernel holds until they are accepted."""

api_app = typer.Typer(add_completion=False)
worker_app = typer.Typer(add_completion=False)
migrate_app = typer.Typer(add_completion=False)


@api_app.command()
def serve_api(
    data_dir: DataDirectory = None,
    host: Host = None,
    port: Port = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A socket that the caller listens on.")] = None,
    config: Config = None,
) -> None:
    """Serve the API alone. Run `attune migrate` first."""
    settings = operator_settings(data_dir, config, host=host, port=port)
    configure_logging(settings.log_level)
    _require_schema(settings)
    HttpProtocol.max_connections = make_room(settings.max_connections)
    streams = min(settings.max_streams, HttpProtocol.max_connections * 3 // 4)  # what is left is for everyone else
    if streams < settings.max_streams:
        log.warning("fewer_streams", max_streams=streams, max_connections=HttpProtocol.max_connections)
    server = uvicorn.Config(
        create_app(settings.model_copy(update={"max_streams": streams})),
        host=settings.host,
        port=settings.port,
        fd=fd,
        http=HttpProtocol,
        log_config=None,
        access_log=False,  # api.http.middleware logs each request, with its id
        server_header=False,
        timeout_graceful_shutdown=10,
        backlog=BACKLOG,
    )
    HttpServer(server).run()


StageName = StrEnum("StageName", {each.upper(): each for each in (*Stage, SAMPLE, DELIVER)})  # type: ignore[misc]


@worker_app.command()
def serve_worker(
    stage: Annotated[
        list[StageName] | None,
        typer.Option(help="Only this: prepare files, train, sample, or deliver. May come again."),
    ] = None,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Run a worker alone: it prepares files, trains jobs, answers requests to models, and tells webhooks of ends."""
    settings = operator_settings(data_dir, config)
    stages = [str(each) for each in stage or ()] or worker_stages(settings)
    if stages != [SAMPLE]:  # which has no use for a database
        _require_schema(settings)
    if not settings.broker_url.get_secret_value():
        typer.echo("no broker: set ATTUNE_BROKER_URL to a redis:// address (`attune up` brings its own)", err=True)
        raise typer.Exit(2)
    if DELIVER in stages:
        refuse_without_libraries(settings)
    environment = {**os.environ, **settings.environment()}
    if len(stages) == 1:
        os.execve(sys.executable, worker_command(stages[0]), environment)  # noqa: S606 (it becomes the worker)
    # One process for each stage, so that training never holds up the preparing of other jobs.
    parts = ProcessManager(say=lambda text: typer.echo(text, err=True))
    parts.stop_on_signals()
    try:
        for each in stages:
            grace_s = settings.stop_grace_s + 10
            parts.start(ManagedProcess(f"worker ({each})", worker_command(each), environment, grace_s=grace_s))
        parts.watch()
    finally:
        parts.stop()


@migrate_app.command()
def migrate_schema(data_dir: DataDirectory = None, config: Config = None) -> None:
    """Bring the database's schema to this version."""
    try:
        migrate(Database(operator_settings(data_dir, config).database))
    except WrongSchema as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    typer.echo("the schema is this version's", err=True)


def worker_stages(settings: Settings) -> list[str]:
    """What a worker does that is not told what to do."""
    return [*Stage, *([SAMPLE] if settings.sampler else []), DELIVER]


def worker_command(stage: str) -> list[str]:
    """The worker is started by name: nothing on this side of the house imports it."""
    return [sys.executable, "-m", "worker", stage]


def refuse_without_libraries(settings: Settings) -> None:
    """Else the worker would be started again and again, and refuse each time."""
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error


def _require_schema(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        require_current(database)
    except WrongSchema as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    finally:
        database.dispose()
