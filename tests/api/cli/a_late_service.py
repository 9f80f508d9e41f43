"""A service for test_service.py, whose parent has ended before it asks for a signal at that end."""

import signal

from api.cli.service import signal_at_parents_end


def main() -> int:
    signal_at_parents_end(signal.SIGTERM, parent=0)
    return 0
