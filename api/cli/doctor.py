"""`attune doctor`: what works, what does not, and what to do about it.

It checks the server as any client sees it and, on a machine that runs a part of the service, that part's components.
"""

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time

import typer

from api.cli.connect import ApiKey, BaseUrl, DataDir, Json, Server, find_server
from api.cli.console import print_json, print_line
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import Config, load_operator_settings
from api.services.diagnosis import Check, check_clock, check_components
from api.settings import Settings

doctor_app = typer.Typer(add_completion=False)

STYLES = {"ok": "", "warning": "yellow", "problem": "bold red"}


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
    GPUs. Everywhere: server, key, workers, base models and clock; with an operator's key also what the server finds at
    its database, storage, broker, queue and disk. The exit code is 1 if there is a problem.
    """
    checks = list(_checks(base_url, api_key, data_dir, config))
    if as_json:
        print_json({"object": "list", "data": [vars(check) for check in checks]})
    else:
        _print(checks)
    if any(check.status == "problem" for check in checks):
        raise typer.Exit(ExitCode.JOB_FAILED)


def _checks(base_url: str | None, api_key: str | None, data_dir: Path | None, config: Path | None) -> Iterator[Check]:
    here: list[Check] = []
    if base_url is None:
        settings = load_operator_settings(data_dir, config)
        if _runs_here(settings, named=bool(data_dir or config)):
            here = list(check_components(settings))
            yield from here
    try:
        server = find_server(base_url, api_key, data_dir)
    except CommandError as error:
        yield _of_error("server", error)
        return
    yield from _check_server(server, {check.component for check in here})


def _runs_here(settings: Settings, *, named: bool) -> bool:
    """Return whether this machine seems to run a part of the service.

    It does if the user named a data folder or settings (`named`), if the data folder exists, or if the settings have a
    database or a storage.
    """
    return named or settings.data_dir.is_dir() or bool(settings.database_url or settings.storage_url)


def _check_server(server: Server, known: set[str]) -> Iterator[Check]:
    """Yield the checks of the server as a client sees it, and those that it runs itself, except of `known`
    components."""
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
        try:
            found = client.get("/health")["data"]
        except CommandError as error:
            yield _of_error("health", error)
            return
        for check in found:
            if check["component"] not in known:
                yield Check(check["component"], check["status"], check["detail"], check["remedy"])


def _of_error(component: str, error: CommandError) -> Check:
    remedy = error.remedy and f"{error.remedy[0].upper()}{error.remedy[1:]}"
    return Check(component, "problem", error.problem, remedy)


def _print(checks: list[Check]) -> None:
    width = max(len(check.component) for check in checks)
    for check in checks:
        print_line(f"{check.status:<8} {check.component:<{width}}  {check.detail}", style=STYLES[check.status])
        if check.remedy is not None:
            print_line(f"{'':<{width + 9}}  → {check.remedy}")
