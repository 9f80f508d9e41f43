"""Options that the operator's commands share."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from api.settings import Settings, load_settings

DataDirectory = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything lives. [env: ATTUNE_DATA_DIR; default: attune-data]")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="A TOML file of settings (api/settings.py). [env: ATTUNE_CONFIG]")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [env: ATTUNE_HOST; default: 127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="0 picks a free one. [env: ATTUNE_PORT; default: 8000]")]


def operator_settings(data_dir: Path | None, config: Path | None, **flags: Any) -> Settings:
    """Settings from flags, variables and file. What is wrong with them is said in a line each, with exit code 2."""
    if config is not None:
        os.environ["ATTUNE_CONFIG"] = str(config)
    try:
        return load_settings(data_dir=data_dir, **flags)
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"setting {name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        raise typer.Exit(2) from None
    except ValueError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None


def make_data_dir(settings: Settings) -> None:
    """The data folder, which only its owner may enter; exit code 2 where it cannot be made."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        print(f"cannot use {settings.data_dir} as data folder: {error.strerror}", file=sys.stderr)
        raise typer.Exit(2) from None
