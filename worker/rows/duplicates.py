"""Rows that were there before: in the same file, or in the training file."""

import hashlib
from dataclasses import dataclass, field

import msgspec

from api.spec.formats import Row, RowWarning

MAX_REMEMBERED = 500_000
"""Rows whose hashes are kept: about 80 MB. Later rows are still compared with them."""


@dataclass
class DuplicateDetector:
    training: "DuplicateDetector | None" = None
    """The training file's rows, where this is the validation file."""
    rows: dict[bytes, int] = field(default_factory=dict)
    """Hash of a row to its number."""

    def notices(self, number: int, row: Row) -> list[RowWarning]:
        """What is to be said of this row, which is remembered."""
        try:
            digest = hashlib.blake2b(msgspec.json.encode(row, order="sorted"), digest_size=12).digest()
        except RecursionError:  # nested so deeply that it is refused
            return []
        notices = []
        if (first := self.rows.get(digest)) is not None:
            notices.append(RowWarning("duplicate", f"is the same as example {first}"))
        elif len(self.rows) < MAX_REMEMBERED:
            self.rows[digest] = number
        if self.training is not None and (first := self.training.rows.get(digest)) is not None:
            notices.append(RowWarning("validation_overlap", f"is also in the training file (example {first})"))
        return notices
