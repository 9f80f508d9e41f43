"""Search for missing objects: those that rows name and the storage lacks, as when the two were restored from different
times."""

from api.context import Context
from api.records import objects
from api.spec.manifest import NAME as MANIFEST

KINDS = tuple(kind for kind in objects.FINDERS if kind != "arrays")
"""Kinds of objects that cannot be made again."""


def find(context: Context) -> list[str]:
    """Return the keys of the missing objects, sorted. Contents are not read.

    Of a saved state, only the manifest is looked for, which is stored last and deleted with its state.
    """
    missing = _named(context)
    for kind in KINDS:
        for batch in context.storage.list_objects(kind):
            missing.difference_update(entry.key for entry in batch)
    return sorted(missing & _named(context))  # the rows of the others were deleted since


def _named(context: Context) -> set[str]:
    with context.database.read() as session:
        keys = {*objects.named(session), *(f"{prefix}/{MANIFEST}" for prefix in objects.saved_states(session))}
    return {key for key in keys if key.partition("/")[0] in KINDS}
