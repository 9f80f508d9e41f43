"""Detection of rows that occur twice in a file, and of validation rows that are also in the training file."""

import hashlib
from dataclasses import dataclass, field

import msgspec

from api.spec.formats import Row, RowWarning
from worker.rows.readers import PlainChat

HASH_BYTES = 12
MAX_REMEMBERED = 500_000
"""Maximum number of rows whose hashes are kept, about 80 MB. Later rows are compared with these, not with each other.
"""


@dataclass
class DuplicateDetector:
    training: "DuplicateDetector | None" = None
    """The detector of the training file, if this one is for the validation file."""
    rows: dict[bytes, int] = field(default_factory=dict)
    """Hash of a row → its number."""

    def warnings(self, number: int, row: Row | PlainChat) -> list[RowWarning]:
        """Return a warning if an earlier row of this file equals this row, and one if a row of the training file does.
        Remember this row."""
        try:
            text = row.canonical if isinstance(row, PlainChat) else msgspec.json.encode(row, order="sorted")
        except RecursionError:  # nested too deeply, which the check of the row reports
            return []
        digest = hashlib.sha256(text, usedforsecurity=False).digest()[:HASH_BYTES]  # in hardware on most processors
        warnings = []
        if (first := self.rows.get(digest)) is not None:
            warnings.append(RowWarning("duplicate", f"is the same as example {first}"))
        elif len(self.rows) < MAX_REMEMBERED:
            self.rows[digest] = number
        if self.training is not None and (first := self.training.rows.get(digest)) is not None:
            warnings.append(RowWarning("validation_overlap", f"is also in the training file (example {first})"))
        return warnings
