"""A service for test_service.py: it appends to the file it is given when it starts, is asked to end, and has ended."""

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

path = Path(sys.argv[1])


def write(text: str) -> None:
    with path.open("a") as file:
        file.write(f"{text}\n")


def stop(*_: object) -> NoReturn:
    write("stopping")
    sys.exit(3)


if __name__ == "__main__":
    atexit.register(write, "ended")
    signal.signal(signal.SIGTERM, stop)
    write(f"started {os.environ['ATTUNE_SECRET']}")
    while True:
        signal.pause()
