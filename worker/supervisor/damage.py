"""Stored bytes that are not what was stored: which of them, and what can be done about it."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from api.infra.storage import Corrupt, ObjectMissing
from api.spec.lifecycle import FailureReason
from worker.supervisor.faults import AttemptFailed

log = structlog.get_logger(__name__)


@contextmanager
def named(
    what: str, remedy: str, *, code: str, param: str, reason: FailureReason = FailureReason.INTERNAL
) -> Iterator[None]:
    """Turn damage met inside into a failure that names it. `what` begins a sentence; `remedy` is one.

    For what cannot be made again: derived data is rebuilt instead.
    """
    try:
        yield
    except (ObjectMissing, Corrupt) as error:
        log.exception("stored_data_damaged", what=what)
        message = f"{what} is damaged or missing in this server's storage. {remedy}"
        raise AttemptFailed(reason, message, code=code, param=param) from error
