"""The failure of a job whose stored data is damaged or missing, and cannot be rebuilt."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from api.infra.storage import ObjectCorrupt, ObjectMissing
from api.spec.lifecycle import FailureReason
from worker.supervisor.faults import AttemptFailed

log = structlog.get_logger(__name__)


@contextmanager
def raise_on_damage(
    name: str, remedy: str, *, code: str, param: str, reason: FailureReason = FailureReason.INTERNAL
) -> Iterator[None]:
    """Raise AttemptFailed if the body of the `with` statement finds damaged or missing data. Do not use this for
    derived data, which is rebuilt instead.

    `name`: the subject of the message's first sentence, such as "The file file-1". `remedy`: the second sentence, which
    says what to do.
    """
    try:
        yield
    except (ObjectMissing, ObjectCorrupt) as error:
        log.exception("stored_data_damaged", name=name)
        message = f"{name} is damaged or missing in this server's storage. {remedy}"
        raise AttemptFailed(reason, message, code=code, param=param) from error
