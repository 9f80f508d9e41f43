"""What the command's exit code says to a script. Listed for users in the README."""

from enum import IntEnum


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
