"""Errors of commands: one line on stderr and an exit code, never a traceback."""

import os
import sys
from enum import IntEnum

import typer
from typer.core import TyperCommand, TyperGroup

from api.cli.console import print_error


class ExitCode(IntEnum):
    OK = 0
    JOB_FAILED = 1
    """The watched job failed, or `attune doctor` or `attune models verify` found a problem."""
    REFUSED = 2
    """The command line is wrong, the server refused the request (400, 404 and similar), or rows are invalid."""
    JOB_CANCELLED = 3
    """The watched job was cancelled."""
    UNAVAILABLE = 4
    """The server cannot be reached, times out, or responds with 429 or 5xx; or a wait timed out. Try again later."""
    NOT_AUTHORIZED = 5
    """There is no API key, or the server does not accept the key for this request."""
    CORRUPT = 6
    """A downloaded file does not match the server's SHA-256 and was deleted, a verified file does not match the
    published one, or the storage lacks an object."""
    INTERRUPTED = 130
    """Ctrl-C. A watched job keeps running."""
    PIPE_CLOSED = 141
    """The reader of the output, such as `head`, ended first: the code that shells report for SIGPIPE."""


class CommandError(Exception):
    def __init__(self, code: ExitCode, problem: str, remedy: str | None = None) -> None:
        """`remedy`: what to do, in words that continue the sentence of the problem after a colon."""
        self.message = problem if remedy is None else f"{problem}: {remedy}"
        super().__init__(self.message)
        self.code = code
        self.problem = problem
        self.remedy = remedy


class RequestRefused(CommandError):
    """An error response of the server."""

    def __init__(self, code: ExitCode, message: str, reason: str | None, status: int) -> None:
        super().__init__(code, message)
        self.reason = reason
        """`error.code` of the response."""
        self.status = status
        """HTTP status of the response."""


class _PrintsErrors:
    """A mixin that turns `CommandError` and `OSError` into a message and an exit code."""

    def invoke(self, ctx: object) -> object:
        try:
            result = super().invoke(ctx)  # type: ignore[misc]  # defined by the command class
            sys.stdout.flush()  # a closed pipe raises here, and not at the end of the process
        except CommandError as error:
            print_error(error.message)
            raise typer.Exit(error.code) from None
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.PIPE_CLOSED) from None
        except OSError as error:  # an unwritable folder, a full disk
            print_error(f"{error.filename or 'this machine'}: {error.strerror or type(error).__name__}")
            raise typer.Exit(ExitCode.REFUSED) from None
        return result


class Commands(_PrintsErrors, TyperGroup):
    """A group of commands."""


class Command(_PrintsErrors, TyperCommand):
    """A command outside a group."""
