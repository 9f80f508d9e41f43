"""`attune doctor`: what works, what does not, and what to do about it.

It checks the server as any client sees it and, on a machine that runs a part of the service, that part's components.
"""

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import typer

from api.cli.client import Client
from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, Server, find_server
from api.cli.console import print_json, print_line
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import Config, load_operator_settings
from api.cli.workers import count_busy_slots
from api.services.diagnosis import Check, check_clock, check_components
from api.settings import Settings

doctor_app = typer.Typer(add_completion=False)

STYLES = {"ok": "", "warning": "yellow", "problem": "bold red"}
MIN_STAGES = {"prepare": "prepares files", "train": "trains jobs"}


@doctor_app.command(cls=Command, epilog="Example: attune doctor")
def doctor(
    *,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    data_dir: DataDir = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Check every component and say what to do about each problem.

    On a machine with a data folder or settings of the service: database, schema, storage, broker, disk, libraries and
    GPUs. Everywhere: server, key, workers, base models and clock. The exit code is 1 if there is a problem.
    """
    checks = list(_checks(base_url, api_key, data_dir, config))
    if as_json:
        print_json({"object": "list", "data": [vars(check) for check in checks]})
    else:
        _print(checks)
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(ExitCode.JOB_FAILED)


def _checks(base_url: str | None, api_key: str | None, data_dir: Path | None, config: Path | None) -> Iterator[Check]:
    if base_url is None:
        settings = load_operator_settings(data_dir, config)
        if _runs_here(settings, named=bool(data_dir or config)):
            yield from check_components(settings)
    try:
        server = find_server(base_url, api_key, data_dir)
    except CommandError as error:
        yield _of_error("server", error)
        return
    yield from _check_server(server)


def _runs_here(settings: Settings, *, named: bool) -> bool:
    """Return whether this machine seems to run a part of the service.

    It does if the user named a data folder or settings (`named`), if the data folder exists, or if the settings have a
    database or a storage.
    """
    return named or settings.data_dir.is_dir() or bool(settings.database_url or settings.storage_url)


def _check_server(server: Server) -> Iterator[Check]:
    with server.client() as client:
        try:
            owner = client.session()
        except CommandError as error:
            component = "key" if error.code is ExitCode.NOT_AUTHORIZED else "server"
            yield _of_error(component, error)
            return
        yield Check("server", "ok", f"{server.url} (from {server.url_source})")
        detail = f"project {owner['project']}, scope {owner['scope']} (from {server.key_source})"
        if owner["scope"] == "read":
            yield Check(
                "key", "warning", detail, "This key cannot create jobs. Ask the operator for one with scope write."
            )
        else:
            yield Check("key", "ok", detail)
        if client.date is not None:
            yield check_clock(time() - parsedate_to_datetime(client.date).timestamp(), "server")
        yield _check_workers(client)
        yield _check_base_models(client)


def _check_workers(client: Client) -> Check:
    workers = [worker for worker in client.get("/workers")["data"] if worker["alive"]]
    missing = [words for stage, words in MIN_STAGES.items() if not any(stage in w["stages"] for w in workers)]
    if missing:
        return Check(
            "workers", "problem", f"no live worker {' or '.join(missing)}", "Start one: attune up, or attune worker."
        )
    held = [f"{worker['host']}: {worker['paused_reason']}" for worker in workers if worker["paused_reason"]]
    if held:
        return Check("workers", "warning", f"paused: {'; '.join(held)}", "Remove the cause; they resume by themselves.")
    versions = {worker["version"] for worker in workers}
    if len(versions) > 1:
        return Check(
            "workers", "warning", f"of different versions: {', '.join(map(str, versions))}", "Update all of them."
        )
    busy = sum(map(count_busy_slots, workers))
    gpus = sum(worker["gpus"] for worker in workers)
    return Check("workers", "ok", f"{len(workers)} live, {busy} slots busy, {gpus} GPUs")


def _check_base_models(client: Client) -> Check:
    bases = client.get("/fine_tuning/catalog")["base_models"]
    if not bases:
        remedy = "Add one: attune models add smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct"
        return Check("base models", "warning", "none: there is nothing to fine-tune", remedy)
    return Check("base models", "ok", ", ".join(base["id"] for base in bases))


def _of_error(component: str, error: CommandError) -> Check:
    remedy = error.remedy and f"{error.remedy[0].upper()}{error.remedy[1:]}"
    return Check(component, "problem", error.problem, remedy)


def _print(checks: list[Check]) -> None:
    width = max(len(check.component) for check in checks)
    for check in checks:
        print_line(f"{check.status:<8} {check.component:<{width}}  {check.detail}", style=STYLES[check.status])
        if check.remedy is not None:
            print_line(f"{'':<{width + 9}}  → {check.remedy}")
