"""Objects that nothing names any more: of attempts that failed, and of deletions that did not get through.

Objects are stored before a row names them, so one that no row names may be on its way: it is left alone until it is
old. What is stored again (a model that could not be published yet) is new again. The rows are asked after the objects
were listed, so that what was named meanwhile is seen.
"""

import time
from dataclasses import dataclass

from api.context import Context
from api.errors import InvalidRequest
from api.infra.storage import Listed
from api.records import objects

YOUNGEST_S = 3600.0
"""No attempt, upload or publishing takes so long between its last object and the row that names it."""


class NotThisDatabase(InvalidRequest):
    """No object is named at all: more likely the storage is another's than all of it forgotten."""


@dataclass
class Collected:
    kind: str
    named: int = 0
    young: int = 0
    """Named by no row, and not old enough to be sure that none will."""
    orphans: int = 0
    orphan_bytes: int = 0


def collect_garbage(context: Context, *, older_than_s: float, most: int, remove: bool) -> list[Collected]:
    """What there is, by kind of key; with `remove` the orphans are gone afterwards, `most` of them at most.

    Raises InvalidRequest, NotThisDatabase.
    """
    if older_than_s < YOUNGEST_S:
        raise InvalidRequest(f"objects younger than {YOUNGEST_S / 3600:g} hours may be on their way: leave them alone")
    found, gone, count = list[Collected](), list[tuple[str, list[str]]](), 0
    for kind in objects.FINDERS:
        counted = Collected(kind)
        for batch in context.storage.listed(kind):
            orphans = _orphans(context, batch, counted, older_than_s, most - count)
            gone.append((kind, [each.key for each in orphans]))
            count += len(orphans)
            if count >= most:
                break
        found.append(counted)
    if remove and count:
        if not any(each.named for each in found):
            raise NotThisDatabase("This database names no object of this storage. Nothing was removed: are both right?")
        for kind, keys in gone:
            _remove(context, kind, keys, older_than_s)
    return found


def _orphans(context: Context, batch: list[Listed], counted: Collected, older_than_s: float, most: int) -> list[Listed]:
    with context.database.read() as session:
        named = objects.named(session, counted.kind, [each.key for each in batch])
    nameless = [each for each in batch if each.key not in named]
    old = [each for each in nameless if time.time() - each.changed_at > older_than_s]
    taken = old[:most]
    counted.named += len(batch) - len(nameless)
    counted.young += len(nameless) - len(old)
    counted.orphans += len(taken)
    counted.orphan_bytes += sum(each.bytes for each in taken)
    return taken


def _remove(context: Context, kind: str, keys: list[str], older_than_s: float) -> None:
    """Those that are still orphans. Until all was listed minutes have passed, and the keys of arrays and base models
    tell their content: the same may have been stored again, and be named by now or soon."""
    with context.database.read() as session:
        named = objects.named(session, kind, keys)
    for key in keys:
        changed_at = context.storage.changed_at(key)
        if key not in named and changed_at is not None and time.time() - changed_at > older_than_s:
            context.storage.delete([key])
