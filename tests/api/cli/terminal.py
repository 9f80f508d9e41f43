"""Commands run in this process, with a pseudo-terminal as their output."""

import os
import pty
import sys
import threading

import typer.main

from api.cli.main import app


def run_on_terminal(*words: object) -> tuple[int, str]:
    """Return the exit code and all that the terminal shows."""
    reader, writer = pty.openpty()
    shown = bytearray()

    def drain() -> None:
        try:
            while chunk := os.read(reader, 65536):
                shown.extend(chunk)
        except OSError:  # how Linux ends a terminal that nobody writes to
            pass

    draining = threading.Thread(target=drain)
    draining.start()
    before = sys.stdout, sys.stderr
    with open(writer, "w", buffering=1) as terminal:
        sys.stdout = sys.stderr = terminal
        try:
            typer.main.get_command(app).main([str(word) for word in words], prog_name="attune")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout, sys.stderr = before
    draining.join()
    os.close(reader)
    return code, shown.decode()
