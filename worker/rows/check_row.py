"""One row checked, the same way for a scan, a preview and a job: what is found, and in which order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from api.spec.formats import Label, Row, RowError, RowWarning
from worker.rows.findings import Findings, example
from worker.rows.labels import Labels
from worker.rows.limits import TooSlow, time_limit

T = TypeVar("T")
ROW_SECONDS = 2.0
"""One row is rendered in microseconds; a template that takes longer than this was made to."""


@dataclass(frozen=True)
class Meaning(Generic[T]):
    """What a row was found to be."""

    value: T
    notices: Sequence[RowWarning]
    labels: Sequence[Label | None]
    """Of each row of arrays that it becomes."""
    into: Labels | None = None
    """Where they go."""


def check_row(
    number: int,
    row: Row | RowError,
    read: Callable[[Row], Meaning[T]],
    findings: Findings,
    seen: Callable[[], Sequence[RowWarning]] = tuple,
) -> T | None:
    """Return what `read` makes of the row, and add what is to be said of it; None if it is invalid.

    `seen`: returns what is to be said of the row beside others, whether it is valid or not.
    """
    meaning, valid = None, False
    try:
        if isinstance(row, RowError):
            raise row
        with time_limit(ROW_SECONDS):
            meaning = read(row)
        for notice in meaning.notices:
            findings.warning(number, notice.code, example(number, notice.message))
        if meaning.into is not None:
            for label in meaning.labels:
                meaning.into.add(label)
        valid = True
    except RowError as error:
        findings.error(number, error.code, example(number, error.message))
    except RecursionError:
        findings.error(number, "too_deep", example(number, "is nested too deeply"))
    except TooSlow:
        findings.error(number, "too_slow", example(number, f"takes longer than {ROW_SECONDS:g} s to check"))
    if not isinstance(row, RowError):
        for notice in seen():
            findings.warning(number, notice.code, example(number, notice.message))
    return meaning.value if meaning is not None and valid else None
