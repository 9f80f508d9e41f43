"""Deletion of objects that no row names any more."""

from collections.abc import Callable

import structlog

from api.infra.storage import StorageUnavailable

log = structlog.get_logger(__name__)


def delete_unused(delete: Callable[[], None]) -> None:
    """Delete objects after the rows that named them were deleted. `delete` is the call of the storage.

    A refusal is only logged. The change is committed, and a caller that reported a failure would be asked to repeat it:
    to delete a file that is gone, or to store a state that is stored. `attune storage collect` deletes what is left.
    """
    try:
        delete()
    except StorageUnavailable as error:
        log.warning("unused_not_deleted", error=str(error))
