"""Garbage collection of orphans: stored objects that no row names, left by failed attempts and failed deletions.

Objects are stored before a row names them, so a young object without a row may still get one and is kept. Storing an
object again resets its age. Rows are queried after the objects are listed, so that rows inserted in between are found.
"""

import time
from dataclasses import dataclass

from api.context import Context
from api.errors import InvalidRequest
from api.infra.storage import ListedObject, StorageUnavailable
from api.records import objects

MIN_AGE_S = 3600.0
"""Minimum age of an orphan, in seconds. Attempts, uploads and publications insert the row of an object in less time."""


class NotThisDatabase(InvalidRequest):
    """No row of the database refers to a stored object: the storage probably belongs to another database."""


@dataclass
class Collected:
    kind: str
    named: int = 0
    young: int = 0
    """Objects without a row that are too young to be orphans."""
    orphans: int = 0
    orphan_bytes: int = 0
    refused: int = 0
    """Orphans that the storage refused to delete, as a bucket's policy may."""


def collect_garbage(context: Context, *, older_than_s: float, most: int, remove: bool) -> list[Collected]:
    """Count the stored objects of each kind, and find at most `most` orphans. With `remove`, delete these orphans.

    Raise InvalidRequest if `older_than_s` is less than MIN_AGE_S, NotThisDatabase.
    """
    if older_than_s < MIN_AGE_S:
        raise InvalidRequest(f"objects younger than {MIN_AGE_S / 3600:g} hours may still be in use: give a longer time")
    reports, orphan_keys, count = list[Collected](), list[tuple[Collected, list[str]]](), 0
    for kind in objects.FINDERS:
        report = Collected(kind)
        for batch in context.storage.list_objects(kind):
            orphans = _orphans(context, batch, report, older_than_s, most - count)
            orphan_keys.append((report, [entry.key for entry in orphans]))
            count += len(orphans)
            if count >= most:
                break
        reports.append(report)
    if remove and count:
        if not any(entry.named for entry in reports):
            raise NotThisDatabase(
                "No row of this database refers to an object in this storage. Nothing was removed: check that the "
                "database and the storage belong together"
            )
        for report, keys in orphan_keys:
            _remove(context, report, keys, older_than_s)
    return reports


def _orphans(
    context: Context, batch: list[ListedObject], report: Collected, older_than_s: float, most: int
) -> list[ListedObject]:
    with context.database.read() as session:
        named = objects.referenced(session, report.kind, [entry.key for entry in batch])
    unnamed = [entry for entry in batch if entry.key not in named]
    old = [entry for entry in unnamed if time.time() - entry.changed_at > older_than_s]
    orphans = old[:most]
    report.named += len(batch) - len(unnamed)
    report.young += len(unnamed) - len(old)
    report.orphans += len(orphans)
    report.orphan_bytes += sum(entry.bytes for entry in orphans)
    return orphans


def _remove(context: Context, report: Collected, keys: list[str], older_than_s: float) -> None:
    """Delete the objects that are still orphans. Listing takes minutes, and the keys of arrays and base models depend
    on their content only: the same object may have been stored again since.

    A refused deletion keeps no others from theirs. During an outage, `changed_at` raises StorageUnavailable.
    """
    with context.database.read() as session:
        named = objects.referenced(session, report.kind, keys)
    for key in keys:
        changed_at = context.storage.changed_at(key)
        if key not in named and changed_at is not None and time.time() - changed_at > older_than_s:
            try:
                context.storage.delete([key])
            except StorageUnavailable:
                report.refused += 1
