"""The question before something that costs money or makes jobs."""

import sys

import typer

from api.cli.errors import CommandError, ExitCode


def require_consent(question: str, *, yes: bool) -> None:
    """Return if --yes is given or the person at the terminal agrees. Without a terminal nothing is asked.

    Raise CommandError otherwise.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(ExitCode.REFUSED, "nothing was done: add --yes to agree to the plan.")
    if not typer.confirm(question, err=True):
        raise CommandError(ExitCode.REFUSED, "nothing was done.")
