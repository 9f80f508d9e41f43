"""Reads the rows of one file for one method: detects their format, checks each row, and builds its array rows
(worker.rows.row_builder). Prepare and preview share this module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from api.spec.formats import FORMATS, Conversation, Example, Format, Row, RowError, closest_format, detect
from api.spec.formats.labelled import warn_of_ignored_labels
from api.spec.methods import Method
from worker.rows.check_row import ParsedRow, check_row
from worker.rows.duplicates import DuplicateDetector
from worker.rows.errors import FileRequest, invalid_file, unexpected_format, wrong_format
from worker.rows.findings import Findings
from worker.rows.label_balance import check_labels
from worker.rows.labels import LabelColumn
from worker.rows.plain_formats import PlainFormat
from worker.rows.readers import FileError, PlainChat, ReadLimits, Rows, open_rows
from worker.rows.row_builder import LabelSpec, RowBuilder, TokenizableRow


@dataclass
class CheckedRow:
    """A row of the file. The row is invalid if `wanted` is true and `built` is empty; the findings then hold the
    reason."""

    number: int
    """The row's number in the file, from 1; blank lines are not counted."""
    line: int
    """The row's line in JSON Lines; in other containers, the row's number."""
    wanted: bool
    built: list[TokenizableRow] = field(default_factory=list)


@dataclass
class FileRows:
    """The rows of one file, for one method."""

    file: FileRequest
    method: Method
    builder: RowBuilder
    limits: ReadLimits
    forced_format: str | None = None
    """The format that all rows are read in, whatever their keys are. If None, the first valid row's keys decide."""
    label_spec: LabelSpec = field(default_factory=LabelSpec)
    training_rows: DuplicateDetector | None = None
    """The detector with the training file's rows, if this is the validation file."""
    complete: bool = True
    """False if only the beginning of the file is given. An error at the end of that beginning, such as an invalid last
    row, is then due to the cut, and is not reported."""
    findings: Findings = field(default_factory=Findings)
    """Findings that `take_findings` has not returned yet."""
    count: int = 0
    """Number of rows read so far."""
    container: str | None = None
    format: Format | None = None
    labels: LabelColumn | None = None

    def __post_init__(self) -> None:
        self.duplicates = DuplicateDetector(self.training_rows)

    def read(self, source: Path, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[CheckedRow]:
        """Yield every row of the file. Rows whose number is not wanted are counted, but neither checked nor built.

        Raises JobRejected if the file cannot be read, or is in no format that the method accepts.
        """
        self.builder.begin_file()
        if self.forced_format is not None:
            self._set_format(self.forced_format)
        line = 0
        try:
            self.container, rows = open_rows(source, self.limits)
            for line, row in rows if self.complete else _without_cut_row(rows):
                if row is None:
                    self.findings.blank_line(line)
                    continue
                self.count += 1
                checked = CheckedRow(self.count, line, wanted(self.count))
                if checked.wanted:
                    checked.built = self._check(line, row)
                yield checked
        except FileError as error:
            if self.complete or not self.count:
                self.findings.error(line + 1 if line else None, error.code, error.message)
                raise invalid_file(self.file, error.message) from None

    def check_labels(self) -> None:
        """Add the findings about all labels together. Call it after the last row."""
        check_labels(self.labels, self.findings, self.file.kind)

    def error_summary(self) -> str | None:
        """Return a sentence about all errors found so far; None if there are none."""
        return self.findings.error_summary("line" if self.container == "jsonl" else "row")

    def take_findings(self) -> Findings:
        """Return the findings since the last call, and clear `findings`."""
        taken, self.findings = self.findings, Findings()
        return taken

    def _check(self, line: int, row: Row | PlainChat | RowError) -> list[TokenizableRow]:
        if isinstance(row, RowError):
            self.findings.row_error(line, row.code, row.message)
            return []
        built = check_row(
            line, lambda: self._build(line, row), self.findings, lambda: self.duplicates.warnings(line, row)
        )
        return built or []

    def _build(self, line: int, row: Row | PlainChat) -> ParsedRow[list[TokenizableRow]]:
        if self.format is None:
            self._set_format(self._detect_format(line, row.row() if isinstance(row, PlainChat) else row))
        built, warnings = self.builder.build(self._read(row))
        return ParsedRow(built, warnings, [array_row.label for array_row in built], self.labels)

    def _read(self, row: Row | PlainChat) -> Example:
        assert self.format is not None
        if isinstance(row, PlainChat):
            alike = self.plain.read(row)
            if isinstance(alike, Conversation):
                return Conversation(row.messages(), alike.weights, None, alike.warnings)
            row = row.row()
        return self.format.read(row)

    def _detect_format(self, line: int, row: Row) -> str:
        """Return the name of the format that the row's keys show.

        Raises RowError if the row lacks one key of a format that the method accepts; JobRejected if the row is in no
        format that the method accepts.
        """
        name = detect(row, self.method.formats)
        if name in self.method.formats:
            if warning := warn_of_ignored_labels(name, row):
                self.findings.warning(line, warning.code, warning.message)
            return name
        if closest := closest_format(row, self.method.formats):
            raise RowError(f"key '{closest[1]}' is missing", code="missing_key")
        rejected = (
            unexpected_format(self.file, self.method, row)
            if name is None
            else wrong_format(self.file, name, self.method)
        )
        self.findings.error(line, "wrong_format", rejected.message)
        raise rejected

    def _set_format(self, name: str) -> None:
        self.format = FORMATS[name]
        self.plain = PlainFormat(self.format)
        self.labels = self.builder.labels(name, self.label_spec)


def _without_cut_row(rows: Rows) -> Rows:
    """Yield the rows, except the last one if it is invalid."""
    held: tuple[int, RowError] | None = None
    for line, row in rows:
        if held is not None:
            yield held
        held = (line, row) if isinstance(row, RowError) else None
        if held is None:
            yield line, row
