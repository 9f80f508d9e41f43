"""Errors of the client commands: one line on stderr and an exit code, never a traceback."""

from enum import IntEnum

import typer
from typer.core import TyperCommand, TyperGroup

from api.cli.console import print_error


class ExitCode(IntEnum):
    OK = 0
    JOB_FAILED = 1
    """The watched job failed."""
    REFUSED = 2
    """The command line is wrong, or the server refused the request (400, 404, 413 and similar)."""
    JOB_CANCELLED = 3
    """The watched job was cancelled."""
    UNAVAILABLE = 4
    """The server cannot be reached, times out, or responds with 429 or 5xx. A retry may succeed."""
    NOT_AUTHORIZED = 5
    """There is no API key, or the server does not accept the key for this request."""
    CORRUPT = 6
    """A downloaded file does not match the server's SHA-256 and was deleted, or a verified file does not match the
    published one."""
    INTERRUPTED = 130
    """Ctrl-C. A watched job keeps running."""


class CommandError(Exception):
    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RequestRefused(CommandError):
    """An error response of the server."""

    def __init__(self, code: ExitCode, message: str, reason: str | None) -> None:
        super().__init__(code, message)
        self.reason = reason
        """`error.code` of the response."""


class _PrintsErrors:
    """A mixin that turns `CommandError` and `OSError` into a message and an exit code."""

    def invoke(self, ctx: object) -> object:
        try:
            return super().invoke(ctx)  # type: ignore[misc]  # defined by the command class
        except CommandError as error:
            print_error(error.message)
            raise typer.Exit(error.code) from None
        except OSError as error:  # an unwritable folder, a full disk
            print_error(f"{error.filename or 'this machine'}: {error.strerror or type(error).__name__}")
            raise typer.Exit(ExitCode.REFUSED) from None


class ClientCommands(_PrintsErrors, TyperGroup):
    """A group of client commands."""


class ClientCommand(_PrintsErrors, TyperCommand):
    """A client command outside a group."""
