"""Errors of a machine that can start no further process or thread, or open no further file."""

import errno

EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Numbers (`errno`) of these errors."""


def is_exhausted(error: BaseException) -> bool:
    """Return whether the machine, or a limit of this process, caused the error. The same work may succeed later."""
    if isinstance(error, RuntimeError):
        return str(error) == "can't start new thread"  # Python has no exception class for this error
    return isinstance(error, OSError) and error.errno in EXHAUSTED
