"""Options and settings that the operator's commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from api.cli.console import print_error
from api.cli.errors import CommandError, ExitCode
from api.settings import Settings, load_settings

DataDirectory = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder for all data of the service. Default: ATTUNE_DATA_DIR, or attune-data."),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="A TOML file of settings (docs/settings.md). Default: ATTUNE_CONFIG.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: ATTUNE_HOST, or 127.0.0.1.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 picks a free one. Default: ATTUNE_PORT, or 8000.")]


def load_operator_settings(data_dir: Path | None, config: Path | None, **options: object) -> Settings:
    """Return the settings from options, environment and file. Print errors, one per line, and exit with code 2."""
    if config is not None:
        os.environ["ATTUNE_CONFIG"] = str(config)
    try:
        return load_settings(data_dir=data_dir, **options)
    except ValidationError as error:
        for details in error.errors():
            name = ".".join(str(part) for part in details["loc"])
            where = f"setting {name}" if name else "settings"  # a rule about several settings has no name
            print_error(f"{where}: {details['msg'].removeprefix('Value error, ')}")
        raise typer.Exit(ExitCode.REFUSED) from None
    except ValueError as error:
        raise CommandError(ExitCode.REFUSED, str(error)) from None


def make_data_dir(settings: Settings) -> None:
    """Create the data folder, accessible only to its owner. Raise CommandError if that fails."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise CommandError(
            ExitCode.REFUSED,
            f"cannot create the data folder {settings.data_dir}: {error.strerror}. Use another --data-dir.",
        ) from None
