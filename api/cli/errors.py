"""Errors of the client commands: one line on stderr and an exit code, never a traceback."""

from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from api.cli.console import print_error


class ExitCode(IntEnum):
    OK = 0
    JOB_FAILED = 1
    """The watched job ended as failed."""
    REFUSED = 2
    """The command line is wrong, or the server refused the request (400, 404, 413 and the like)."""
    JOB_CANCELLED = 3
    """The watched job ended as cancelled."""
    UNAVAILABLE = 4
    """The server cannot be reached, does not answer in time, or answers 429 or 5xx: trying again may help."""
    NOT_AUTHORIZED = 5
    """No API key, or one that the server does not accept for this."""
    CORRUPT = 6
    """What was downloaded is not what the server says it is, and nothing of it was kept; or what was verified is not
    what was published."""
    INTERRUPTED = 130
    """Ctrl-C. A watched job goes on."""


class CommandError(Exception):
    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Refusal(CommandError):
    """The server's own."""

    def __init__(self, code: ExitCode, message: str, reason: str | None) -> None:
        super().__init__(code, message)
        self.reason = reason
        """Its `error.code`."""


class _Named:
    """Invoked, its `CommandError`s become a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)  # type: ignore[misc]  # of the command that this is mixed into
        except CommandError as error:
            print_error(error.message)
            raise typer.Exit(error.code) from None
        except OSError as error:  # a folder that cannot be written to, a full disk
            print_error(f"{error.filename or 'this machine'}: {error.strerror or type(error).__name__}")
            raise typer.Exit(ExitCode.REFUSED) from None


class ClientCommands(_Named, TyperGroup):
    """A group of commands."""


class ClientCommand(_Named, TyperCommand):
    """One that stands alone."""
