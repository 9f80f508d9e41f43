"""`attune backup` and `attune restore`: copy the data of a service with SQLite to a backup, and back."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from api.cli import deployment
from api.cli.console import activity_progress, format_size, print_error, print_result
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.options import AsJson, Config, DataDirectory, load_operator_settings
from api.context import Context
from api.errors import ServiceError
from api.infra.storage import StorageUnavailable
from api.records.migrate import WrongSchema, require_current
from api.services import backups
from api.services.backups import Contents
from api.settings import Settings

backup_app = typer.Typer(add_completion=False)
restore_app = typer.Typer(add_completion=False)


@backup_app.command(cls=Command, epilog="Example: attune backup backups/monday --data-dir attune-data")
def back_up(
    target: Annotated[Path, typer.Argument(help="A new folder for the backup.")],
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Copy the database and the objects into a new folder, while the service runs.

    The service must use SQLite, as one started by `attune up` does. Every object is compared with its recorded hash.
    """
    settings = load_operator_settings(data_dir, config)
    try:
        backups.database_file(settings)
        with activity_progress(str(target)) as report:
            contents = _back_up(settings, target, report)
    except (ServiceError, WrongSchema, StorageUnavailable) as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None
    except SQLAlchemyError as error:
        raise deployment.database_error(settings, error) from None
    _print(contents, f"{target} has", as_json)
    for key in contents.damaged:
        print_error(f"{key} is missing or damaged in the storage, and is not in the backup")
    raise typer.Exit(ExitCode.CORRUPT if contents.damaged else ExitCode.OK)


def _back_up(settings: Settings, target: Path, report: backups.Report) -> Contents:
    context = Context.open(settings)
    try:
        require_current(context.database)
        return backups.back_up(context, target, report)
    finally:
        context.database.dispose()


@restore_app.command(cls=Command, epilog="Example: attune restore backups/monday --data-dir attune-data")
def restore(
    source: Annotated[Path, typer.Argument(help="The folder of a backup.")],
    as_json: AsJson = False,
    data_dir: DataDirectory = None,
    config: Config = None,
) -> None:
    """Copy a backup into an empty data folder, and compare the hash of every file.

    Start the service on the folder afterwards. It gets a new key in credentials.json; other keys stay valid.
    """
    settings = load_operator_settings(data_dir, config)
    try:
        with activity_progress(str(source)) as report:
            contents = backups.restore(source, settings, report)
    except ServiceError as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None
    _print(contents, f"{settings.data_dir} was restored with", as_json)


def _print(contents: Contents, what: str, as_json: bool) -> None:
    document = contents.model_dump(exclude={"objects"}) | {"objects": len(contents.objects), "bytes": contents.bytes}
    text = f"{what} the database and {len(contents.objects)} objects, {format_size(contents.bytes)}"
    print_result(document, text, as_json=as_json)
