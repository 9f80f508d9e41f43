"""Deletion of objects that no row names any more."""

from collections.abc import Callable

import structlog

from api.infra.storage import StorageUnavailable

log = structlog.get_logger(__name__)


def delete_unused(delete: Callable[[], None]) -> None:
    """Delete objects that no row names: the rows were deleted, or could not be written. `delete` is the call of the
    storage.

    A refusal is only logged. A caller that reported it would be asked to repeat what is done, such as to delete a file
    that is gone, or would hide the error because of which nothing was written. `attune storage collect` deletes what is
    left.
    """
    try:
        delete()
    except StorageUnavailable as error:
        log.warning("unused_not_deleted", error=str(error))
