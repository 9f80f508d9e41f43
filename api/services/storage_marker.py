"""The marker that ties a database to its object storage.

A worker whose storage is not that of the API would find no files, and every job that it claims would use up its
retries. So an object in the storage, the marker, holds the same id as the database, and each process compares the two
ids when it starts.
"""

import secrets

from api.context import Context
from api.infra.storage import ObjectMissing, Storage
from api.records import installation
from api.records.installation import MARKER

ID_BYTES = 16


class WrongStorage(Exception):
    """The object storage does not belong to this database. The message says what to do."""

    def __init__(self, found: bool) -> None:
        what = "belongs to another database" if found else f"lacks the object '{MARKER}' of this database's storage"
        super().__init__(
            f"The object storage {what}: set ATTUNE_STORAGE_URL (or --data-dir) to that of the other processes. If "
            "this is the right storage, which was moved or restored, run `attune storage claim`."
        )


def prepare(context: Context) -> None:
    """Tie the database to the storage, unless it is tied to one already. Only one process may do this at a time.

    If the storage has a marker already, the marker is kept and the database takes over its id.
    """
    with context.database.read() as session:
        known = installation.storage_id(session)
    if known is None:
        chosen = _read(context.storage) or secrets.token_hex(ID_BYTES)
        _tie(context, chosen)


def require(context: Context) -> None:
    """Raise WrongStorage if the storage does not belong to this database, StorageUnavailable if it cannot be read."""
    with context.database.read() as session:
        known = installation.storage_id(session)
    found = _read(context.storage)
    if known is not None and found != known:
        raise WrongStorage(found is not None)


def claim(context: Context) -> None:
    """Tie the database to the storage with a new marker, whatever either of them was tied to before."""
    _tie(context, secrets.token_hex(ID_BYTES))


def _tie(context: Context, chosen: str) -> None:
    context.storage.write_bytes(MARKER, chosen.encode())
    with context.database.write() as session:
        installation.set_storage_id(session, chosen)


def _read(storage: Storage) -> str | None:
    try:
        return b"".join(storage.read(MARKER)).decode(errors="replace")
    except ObjectMissing:
        return None
