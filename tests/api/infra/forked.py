"""A child for the tests of the fork server: does what its arguments say."""

import errno
import json
import os
import signal
import sys
import time

PREPARED: list[str] = []


def prepare(argument: str) -> None:
    PREPARED.append(argument)
    if argument == "without a process left":
        fork = os.fork

        def fail() -> int:
            os.fork = fork
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

        os.fork = fail


def main(what: str, *arguments: str) -> int:
    match what:
        case "tell":
            facts = {
                "arguments": arguments,
                "prepared": PREPARED,
                "environment": dict(os.environ),
                "parent": os.getppid(),
                "group": os.getpgid(0) == os.getpid(),
                "stdin": sys.stdin.read(),
                "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),
            }
            os.write(int(os.environ["REPORT_TO"]), json.dumps(facts).encode())
            print("to the log")
        case "exit":
            sys.exit(int(arguments[0]))
        case "refuse":
            sys.exit("usage: none")
        case "raise":
            raise ValueError("a reason")
        case "die":
            os.kill(os.getpid(), signal.Signals[arguments[0]])
        case "sleep":
            time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
