"""One file of rows: every row read, checked, rendered and tokenised, in batches, in memory that does not grow."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from api.spec.formats import FORMATS, Format, Row, RowError, closest_format, detect
from api.spec.methods import Method
from api.spec.methods.base import Problem
from worker.rows.array_writer import ArrayWriter
from worker.rows.check_row import Meaning, check_row
from worker.rows.duplicates import DuplicateDetector
from worker.rows.errors import FileRequest, JobRejected, invalid_file, too_few, unexpected_format, wrong_format
from worker.rows.examiner import tokenised
from worker.rows.findings import Findings, example
from worker.rows.label_balance import check_labels
from worker.rows.labels import Labels, TooManyLabels
from worker.rows.limits import exit_if_stuck, require_memory
from worker.rows.readers import FileError, ReadLimits, open_rows
from worker.rows.render import Rendered
from worker.rows.row_builder import LabelSpec, RowBuilder, TokenizableRow
from worker.rows.tokenizer import PromptCompletionText, TokenizerWrapper

BATCH_BYTES = 250_000
BATCH_ROWS = 1_000
BATCH_SECONDS = 120.0
"""No batch takes a hundredth of it; a tokenizer out of memory may wait for ever."""
TOKENIZER_BYTES = 400
"""Memory that the tokenizer takes for a byte of text that becomes a token by itself."""


class FileReport(msgspec.Struct):
    name: str
    container: str | None = None
    """How the file holds its rows; what a finding's `line` counts are lines in jsonl, rows elsewhere."""
    format: str | None = None
    rows: int = 0
    """Of the file."""
    array_rows: int = 0
    """Of the arrays: a pair becomes two rows under kto."""
    width: int = 1
    """Sequences of an array row."""
    tokens: int = 0
    supervised_tokens: int = 0
    longest_row: int = 0
    """Tokens of the longest sequence."""
    problem: Problem | None = None
    """Of a classification: what its labels are."""
    label_names: list[str] | None = None
    findings: list[dict[str, Any]] = []
    finding_counts: dict[str, int] = {}


@dataclass
class Preparation:
    """What all files of a job share."""

    method: Method
    tokens: TokenizerWrapper
    composer: RowBuilder
    read_limits: ReadLimits
    context_window: int | None
    format: str | None
    """The one to take rows for, whatever their keys show."""
    progress: Callable[[str, int, bool], None]
    trained: LabelSpec
    seen: DuplicateDetector | None = None
    """The training file's rows."""


def prepare_file(file: FileRequest, source: Path, target: Path, shared: Preparation, report: FileReport) -> None:
    """Write the file's arrays and fill its report; Invalid if it cannot be trained on."""
    findings = Findings()
    with ArrayWriter(target) as spool, _reported(findings, report):
        shared.progress(file.name, 0, True)
        shared.composer.begin_file()
        reader = _Reader(file, shared, findings, spool, report, DuplicateDetector(shared.seen))
        reader.read(source)
        check_labels(reader.labels, findings, file.kind)
        if findings.first_error is not None:
            raise invalid_file(file, f"Invalid file format. {findings.first_error}")
        if report.rows < file.min_rows:
            raise too_few(file, report.rows)
        _save(file, spool, reader.labels, report)
        if file.kind == "training":
            shared.seen = reader.seen
            if shared.trained.problem is None:
                shared.trained = LabelSpec(report.problem, report.label_names)


@contextmanager
def _reported(findings: Findings, report: FileReport) -> Iterator[None]:
    """Whatever ends the work, what was found until then is in the report."""
    try:
        yield
    finally:
        report.findings, report.finding_counts = findings.listed, dict(findings.counts)


def _save(file: FileRequest, spool: ArrayWriter, labels: Labels | None, report: FileReport) -> None:
    scratch = spool.target.with_name(f"{spool.target.name}.labels.bin")
    try:
        values = None if labels is None else labels.save(scratch)
    except TooManyLabels as error:
        raise invalid_file(file, str(error)) from None
    else:
        if labels is not None:
            report.label_names, report.problem = labels.names, labels.problem
        spool.save(report.width, report.array_rows // max(1, report.rows) or 1, values, report.label_names)
    finally:
        scratch.unlink(missing_ok=True)
    report.tokens, report.longest_row = sum(spool.lengths), max(spool.lengths, default=0)
    report.supervised_tokens = spool.supervised_tokens


@dataclass(frozen=True)
class _Waiting:
    """A text that waits to be tokenised with others."""

    number: int
    text: Rendered | PromptCompletionText


@dataclass
class _Reader:
    file: FileRequest
    shared: Preparation
    findings: Findings
    spool: ArrayWriter
    report: FileReport
    seen: DuplicateDetector
    format: Format | None = None
    labels: Labels | None = None
    batch: list[_Waiting] = field(default_factory=list)
    batch_bytes: int = 0

    def read(self, source: Path) -> None:
        if self.shared.format is not None:
            self._take_as(self.shared.format)
        number = 0
        try:
            self.report.container, rows = open_rows(source, self.shared.read_limits)
            for number, row in rows:
                self._read_row(number, row)
        except FileError as error:
            self.findings.error(number + 1 if number else None, error.code, error.message)
            raise invalid_file(self.file, error.message) from None
        self._flush()
        self.shared.progress(self.file.name, self.report.rows, True)

    def _read_row(self, number: int, row: Row | RowError | None) -> None:
        if row is None:
            self.findings.warning(number, "blank_line", f"Line {number} is blank and skipped.")
            return
        if self.report.rows == self.shared.read_limits.rows:
            raise FileError(f"has more than {self.report.rows:,} rows", code="too_many_rows")
        self.report.rows += 1
        composed = check_row(
            number,
            row,
            lambda row: self._compose(number, row),
            self.findings,
            lambda: [] if isinstance(row, RowError) else self.seen.notices(number, row),
        )
        for each in composed or ():
            # Once the file is known to be invalid, its rows are still checked, but there is no use for their tokens.
            if self.findings.first_error is None:
                self._add(number, each)
        self.shared.progress(self.file.name, self.report.rows, False)

    def _compose(self, number: int, row: Row) -> Meaning[list[TokenizableRow]]:
        composed, notices = self.shared.composer.compose(self._format_of(number, row).read(row))
        return Meaning(composed, notices, [each.label for each in composed], self.labels)

    def _format_of(self, number: int, row: Row) -> Format:
        if self.format is None:
            self.format = self._choose(number, row)
        return self.format

    def _choose(self, number: int, row: Row) -> Format:
        """By the keys of the first row that is one."""
        method = self.shared.method
        name = detect(row, method.formats)
        if name in method.formats:
            return self._take_as(name)
        if found := closest_format(row, method.formats):
            raise RowError(f"key '{found[1]}' is missing", code="missing_key")
        refused = unexpected_format(self.file, method, row) if name is None else wrong_format(self.file, name, method)
        self.findings.error(number, "wrong_format", refused.message)
        raise refused

    def _take_as(self, name: str) -> Format:
        self.format, self.report.format = FORMATS[name], name
        self.labels = self.shared.composer.labels(name, self.shared.trained)
        return self.format

    def _add(self, number: int, row: TokenizableRow) -> None:
        self.report.array_rows += 1
        self.report.width = len(row.sequences)
        if row.item is not None:
            self.spool.append_item(row.item)
        for text in row.sequences:
            self.batch.append(_Waiting(number, text))
            texts = [text.text] if isinstance(text, Rendered) else [text.given, text.given, text.learnt]
            self.batch_bytes += sum(len(text.encode()) for text in texts)
        if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        batch, size, self.batch, self.batch_bytes = self.batch, self.batch_bytes, [], 0
        if not batch or self.findings.first_error is not None:
            return
        require_memory(size * TOKENIZER_BYTES)
        with exit_if_stuck(BATCH_SECONDS):
            sequences = tokenised([waiting.text for waiting in batch], self.shared.tokens)
        self.spool.append(sequences)
        window = self.shared.context_window
        for waiting, sequence in zip(batch, sequences, strict=True):
            length = len(sequence.tokens)
            if window is not None and length > window:
                problem = f"has {length:,} tokens, and the base model reads {window:,} at once"
                self.findings.warning(waiting.number, "too_long", example(waiting.number, problem))


__all__ = ["FileReport", "JobRejected", "Preparation", "prepare_file"]
