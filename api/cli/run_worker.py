"""`attune worker`: the workers of a production deployment."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from api.cli import deployment
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import Config, DataDirectory, load_operator_settings
from api.cli.process_manager import ProcessManager
from api.cli.service import COMMANDS, preloaded
from api.cli.stages import require_tracker_libraries, runnable_stages, worker_services
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage

worker_app = typer.Typer(add_completion=False)

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
    if len(stages) == 1:
        module = [sys.executable, "-m", *COMMANDS[stages[0]]]
        os.execve(sys.executable, module, {**os.environ, **settings.environment()})  # noqa: S606 (replaces this process)
    # One process per stage, so that training never delays the preparation of other jobs.
    processes = ProcessManager(log=lambda text: typer.echo(text, err=True))
    processes.stop_on_signals()
    server = preloaded(settings, stages) if settings.fork_server else None
    try:
        for worker in worker_services(settings, stages, server):
            processes.start(worker)
        processes.watch()
    finally:
        processes.stop()
