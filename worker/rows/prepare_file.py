"""The preparation of one file: its rows are built and tokenized in batches, so memory does not grow with the file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from api.spec.methods import Method
from api.spec.methods.base import Problem
from worker.rows.array_writer import ArrayWriter
from worker.rows.duplicates import DuplicateDetector
from worker.rows.errors import FileRequest, invalid_file, too_few
from worker.rows.file_rows import FileRows
from worker.rows.findings import Finding
from worker.rows.labels import LabelColumn, TooManyLabels
from worker.rows.limits import exit_if_stuck, require_memory
from worker.rows.readers import ReadLimits
from worker.rows.render import Rendered
from worker.rows.row_builder import LabelSpec, RowBuilder, TokenizableRow
from worker.rows.tokenize_rows import PromptCompletionText, TokenizerWrapper, tokenize_on_all_cores
from worker.shared.arrays import Array

BATCH_BYTES = 250_000
BATCH_ROWS = 1_000
BATCH_SECONDS = 120.0
"""Time limit for tokenizing a batch, a hundred times what a batch takes. Without a limit, a tokenizer that is out of
memory may never return."""
TOKENIZER_BYTES = 400
"""Memory that the tokenizer takes for each byte of text, if every byte becomes a token."""


class FileReport(msgspec.Struct):
    """The outcome of one file, as far as it was read."""

    name: str
    """"train" or "validation"."""
    container: str | None = None
    """jsonl, json, csv or parquet. A finding's `line` is a line number in jsonl, a row number in the others."""
    format: str | None = None
    rows: int = 0
    """Number of rows of the file."""
    array_rows: int = 0
    """Number of rows of the arrays. It differs from `rows` if the method is kto, for which a pair becomes two rows."""
    width: int = 1
    """Number of sequences of an array row."""
    tokens: int = 0
    supervised_tokens: int = 0
    longest_row: int = 0
    """Number of tokens of the longest sequence."""
    problem: Problem | None = None
    """The classification problem that the labels show."""
    label_names: list[str] | None = None
    findings: list[Finding] = []
    finding_counts: dict[str, int] = {}
    rendered_at: float | None = None
    """The time that the chat template wrote, in Unix time."""


@dataclass
class Preparation:
    """The settings and the progress that all files of a job share."""

    method: Method
    tokenizer: TokenizerWrapper
    builder: RowBuilder
    read_limits: ReadLimits
    context_window: int | None
    forced_format: str | None
    """The format that all rows are read in, whatever their keys are. If None, it is detected."""
    progress: Callable[[str, int, bool], None]
    label_spec: LabelSpec
    training_rows: DuplicateDetector | None = None
    """The training file's rows, once that file is prepared."""


def prepare_file(file: FileRequest, source: Path, target: Path, shared: Preparation, report: FileReport) -> None:
    """Write the file's arrays and fill its report. Raises JobRejected if the file cannot be trained on."""
    tokenize_on_all_cores()
    rows = FileRows(
        file,
        shared.method,
        shared.builder,
        shared.read_limits,
        shared.forced_format,
        shared.label_spec,
        shared.training_rows,
    )
    with ArrayWriter(target) as writer, _reported(rows, report):
        shared.progress(file.name, 0, True)
        batch = _Batch(shared.tokenizer, shared.context_window, rows, writer, report)
        for row in rows.read(source):
            for built in row.built:
                batch.add(row.line, built)
            shared.progress(file.name, rows.count, False)
        batch.flush()
        shared.progress(file.name, rows.count, True)
        rows.check_labels()
        if (errors := rows.error_summary()) is not None:
            raise invalid_file(file, f"Invalid file format. {errors}")
        if rows.count < file.min_rows:
            raise too_few(file, rows.count)
        _save(file, writer, rows, report)
        if file.kind == "training":
            shared.training_rows = rows.duplicates
            if shared.label_spec.problem is None:
                shared.label_spec = LabelSpec(report.problem, report.label_names)


@contextmanager
def _reported(rows: FileRows, report: FileReport) -> Iterator[None]:
    """When the `with` block ends, even by an error, fill the report with the rows and findings so far."""
    try:
        yield
    finally:
        report.container, report.rows = rows.container, rows.count
        report.format = None if rows.format is None else rows.format.name
        report.findings, report.finding_counts = rows.findings.listed, dict(rows.findings.counts)


def _save(file: FileRequest, writer: ArrayWriter, rows: FileRows, report: FileReport) -> None:
    values, scratch = None, writer.target.with_name(f"{writer.target.name}.labels.bin")
    try:
        if rows.labels is not None:
            values = _save_labels(file, rows.labels, scratch)
            report.label_names, report.problem = rows.labels.names, rows.labels.problem
        writer.save(report.width, report.array_rows // max(1, rows.count) or 1, values, report.label_names)
    finally:
        scratch.unlink(missing_ok=True)
    report.tokens, report.longest_row = sum(writer.lengths), max(writer.lengths, default=0)
    report.supervised_tokens = writer.supervised_tokens


def _save_labels(file: FileRequest, labels: LabelColumn, scratch: Path) -> Array | None:
    try:
        return labels.save(scratch)
    except TooManyLabels as error:
        raise invalid_file(file, str(error)) from None


@dataclass
class _Batch:
    """Sequences that are tokenized together and appended to the arrays."""

    tokenizer: TokenizerWrapper
    context_window: int | None
    rows: FileRows
    writer: ArrayWriter
    report: FileReport
    lines: list[int] = field(default_factory=list)
    """The line of each sequence's row."""
    texts: list[Rendered | PromptCompletionText] = field(default_factory=list)
    text_bytes: int = 0

    def add(self, line: int, row: TokenizableRow) -> None:
        """Add an array row, unless the file is already known to be invalid, so that its tokens would not be used."""
        if self.rows.findings.first_error is not None:
            return
        self.report.array_rows += 1
        self.report.width = len(row.sequences)
        if row.item is not None:
            self.writer.append_item(row.item)
        for text in row.sequences:
            self.lines.append(line)
            self.texts.append(text)
            parts = [text.text] if isinstance(text, Rendered) else [text.prompt, text.prompt, text.completion]
            self.text_bytes += sum(len(part.encode()) for part in parts)
        if self.text_bytes >= BATCH_BYTES or len(self.texts) >= BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Tokenize the sequences that were added and append them to the arrays."""
        lines, texts, text_bytes = self.lines, self.texts, self.text_bytes
        self.lines, self.texts, self.text_bytes = [], [], 0
        if not texts or self.rows.findings.first_error is not None:
            return
        require_memory(text_bytes * TOKENIZER_BYTES)
        with exit_if_stuck(BATCH_SECONDS):
            sequences = self.tokenizer.encode(texts)
        self.writer.append(sequences)
        for line, sequence in zip(lines, sequences, strict=True):
            length = len(sequence.tokens)
            if self.context_window is not None and length > self.context_window:
                problem = f"has {length:,} tokens, but the base model's context is {self.context_window:,} tokens"
                self.rows.findings.row_warning(line, "too_long", problem)
