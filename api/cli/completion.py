"""`attune completion`: the script with which a shell completes commands and options."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import get_completion_script

from api.cli.console import out, print_note, print_raw
from api.cli.errors import Command, CommandError, ExitCode
from api.cli.main import COMPLETE

completion_app = typer.Typer(add_completion=False)

INSTALLATION = {
    "bash": 'Add to ~/.bashrc: eval "$(attune completion bash)"',
    "zsh": 'Add to ~/.zshrc, after compinit: eval "$(attune completion zsh)"',
    "fish": "Save it: attune completion fish > ~/.config/fish/completions/attune.fish",
}
SCRIPT = {"prog_name": "attune", "complete_var": COMPLETE}
Shell = StrEnum("Shell", [(name.upper(), name) for name in INSTALLATION])  # type: ignore[misc]


@completion_app.command(
    cls=Command, epilog='Example: attune completion bash, in ~/.bashrc: eval "$(attune completion bash)"'
)
def completion(
    shell: Annotated[Shell | None, typer.Argument(help="bash, zsh or fish. Default: your login shell.")] = None,
) -> None:
    """Print a script that completes commands in a shell.

    On a terminal, a note says where to put it.
    """
    name = str(shell or Path(os.environ.get("SHELL", "")).name)
    if name not in INSTALLATION:
        raise CommandError(ExitCode.REFUSED, f"name the shell: attune completion {'|'.join(INSTALLATION)}.")
    print_raw(get_completion_script(**(SCRIPT | {"shell": name})))
    if out.is_terminal:
        print_note(INSTALLATION[name])
