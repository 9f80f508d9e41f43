"""The stages of workers that this machine can run, and their services."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from api.cli.console import print_note
from api.cli.errors import CommandError, ExitCode
from api.cli.process_manager import Service
from api.cli.service import grace_s, shared_server
from api.infra.child_process import ForkServer
from api.infra.tracker_registry import MissingLibrary, require_libraries
from api.services.diagnosis import check_libraries
from api.settings import Settings
from api.spec.lifecycle import BATCH, DELIVER, EVALUATE, SAMPLE, Stage


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


def require_tracker_libraries(settings: Settings) -> None:
    """Raise CommandError if a configured tracker's library is missing.

    Otherwise the worker would crash and be restarted again and again.
    """
    try:
        require_libraries(settings)
    except MissingLibrary as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from error


def worker_services(
    settings: Settings,
    stages: Sequence[str],
    server: ForkServer | None,
    log_file: Callable[[str], Path | None] = lambda stage: None,
) -> list[Service]:
    """Return the worker of each stage, to be forked by `server`. `log_file`: see ManagedProcess."""
    children = shared_server(settings, stages) if settings.fork_server else None
    lent = {} if children is None else children.lend()
    return [
        Service(
            f"worker ({stage})",
            {**os.environ, **settings.environment()},
            log_file(stage),
            # The sampler answers chats until the API has ended. Its own end is short: it leaves requests unanswered.
            grace_s=10.0 if stage == SAMPLE else grace_s(settings),
            stops_last=stage == SAMPLE,
            service=stage,
            server=server,
            descriptors=lent if stage in (Stage.TRAIN, SAMPLE) else {},
        )
        for stage in stages
    ]
