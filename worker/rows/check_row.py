"""The check of one row, which a scan, a preview and a job share, so that they report the same findings in the same
order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from api.spec.formats import Label, RowError, RowWarning
from worker.rows.findings import Findings
from worker.rows.labels import LabelColumn
from worker.rows.limits import TooSlow, time_limit

T = TypeVar("T")
ROW_SECONDS = 2.0
"""Limit on the processor time of the check of one row. Most rows take microseconds; only a hostile chat template or row
takes longer than this."""


@dataclass(frozen=True)
class ParsedRow(Generic[T]):
    """The result of parsing a valid row."""

    value: T
    warnings: Sequence[RowWarning]
    labels: Sequence[Label | None]
    """One label for each array row that the row becomes."""
    column: LabelColumn | None = None
    """The column to which `check_row` adds the labels; None if the format has no labels."""


def check_row(
    number: int,
    parse: Callable[[], ParsedRow[T]],
    findings: Findings,
    duplicates: Callable[[], Sequence[RowWarning]] = tuple,
) -> T | None:
    """Return the value of the parsed row, or None if the row is invalid; add its warnings or its error to the findings.

    `duplicates` returns further warnings; it is called after parsing, for valid and invalid rows.
    """
    value = None
    try:
        with time_limit(ROW_SECONDS):
            parsed = parse()
        for warning in parsed.warnings:
            findings.row_warning(number, warning.code, warning.message)
        if parsed.column is not None:
            for label in parsed.labels:
                parsed.column.add(label)
        value = parsed.value
    except RowError as error:
        findings.row_error(number, error.code, error.message)
    except RecursionError:
        findings.row_error(number, "too_deep", "is nested too deeply")
    except TooSlow:
        findings.row_error(number, "too_slow", f"takes longer than {ROW_SECONDS:g} s to check")
    for warning in duplicates():
        findings.row_warning(number, warning.code, warning.message)
    return value
