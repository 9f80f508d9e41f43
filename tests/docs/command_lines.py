"""Command lines of `attune`, parsed without being run."""

import re
import shlex
from typing import Any

from typer.main import get_command

from api.cli.main import app


def require_parsed(line: str) -> None:
    """Raise unless the command line of `attune` names existing commands and options."""
    words = shlex.split(re.split(" [<>|] ", line)[0], comments=True)
    if not words[0].endswith("attune"):
        return
    command: Any = get_command(app)
    context, words = None, words[1:]
    while True:
        context = command.make_context(command.name, words, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def exists(command: str) -> bool:
    """Return whether `require_parsed` accepts the command, which may lack arguments or end with --help."""
    try:
        require_parsed(command)
    except Exception as error:
        return type(error).__name__ in {"MissingParameter", "Exit"}
    return True
