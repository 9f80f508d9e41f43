"""The question to the user before a command spends money or creates jobs."""

import sys

import typer

from api.cli.errors import CommandError, ExitCode


def require_consent(question: str, *, yes: bool) -> None:
    """Return if --yes is given or the user agrees; otherwise raise CommandError.

    Without a terminal the user is not asked, and only --yes counts.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(ExitCode.REFUSED, "nothing was done: add --yes to agree to the plan.")
    if not typer.confirm(question, err=True):
        raise CommandError(ExitCode.REFUSED, "nothing was done.")
