"""The marker that ties a database to its object storage.

A worker with another storage than the API's would find no file, and every job would lose its retries there. An object
holds an id that the database knows; each process compares the two at its start.
"""

import secrets

from api.context import Context
from api.infra.storage import ObjectMissing, Storage
from api.records import installation
from api.records.installation import MARKER

ID_BYTES = 16


class WrongStorage(Exception):
    """The storage is not the one of this database. The message says what to do."""

    def __init__(self, found: bool) -> None:
        what = "belongs to another database" if found else f"lacks the object '{MARKER}' of this database's storage"
        super().__init__(
            f"The object storage {what}: set ATTUNE_STORAGE_URL (or --data-dir) to that of the other processes. If it "
            "is the right one, moved or restored, run `attune storage claim`."
        )


def prepare(context: Context) -> None:
    """Tie the database to the storage, unless it is tied to one already. Call it where one process runs, as migrations.

    A marker that is there already is kept: a restored database belongs to the storage that it belonged to.
    """
    with context.database.read() as session:
        known = installation.storage_id(session)
    if known is None:
        chosen = _read(context.storage) or secrets.token_hex(ID_BYTES)
        _tie(context, chosen)


def require(context: Context) -> None:
    """Raise WrongStorage, StorageUnavailable."""
    with context.database.read() as session:
        known = installation.storage_id(session)
    found = _read(context.storage)
    if known is not None and found != known:
        raise WrongStorage(found is not None)


def claim(context: Context) -> None:
    """Tie the database to the storage, whatever either was tied to before."""
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
