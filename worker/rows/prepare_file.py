"""One file of rows: every line read, checked, rendered and tokenised, in batches, in memory that does not grow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from api.formats import FORMATS, Conversation, Example, Format, Passage, RowError, detect
from api.lifecycle import FailureReason
from api.methods import Method
from worker.rows.findings import Findings
from worker.rows.jsonl import decode, read_lines
from worker.rows.limits import TooSlow, exit_if_stuck, require_memory, time_limit
from worker.rows.render import Rendered, Renderer
from worker.rows.spool import Spool
from worker.rows.tokens import TokenRow, Tokens

ROW_SECONDS = 2.0
"""One row is rendered in microseconds; a template that takes longer than this was made to."""
BATCH_BYTES = 250_000
BATCH_ROWS = 1_000
BATCH_SECONDS = 120.0
"""No batch takes a hundredth of it; a tokenizer out of memory may wait for ever."""
TOKENIZER_BYTES = 400
"""Memory that the tokenizer takes for a byte of text that becomes a token by itself."""


class FileRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    """train or validation."""
    path: str
    """In the run folder."""
    file_id: str
    """As the user knows it."""
    param: str
    """The recipe's field that named it."""
    min_rows: int


class FileReport(msgspec.Struct):
    name: str
    format: str | None = None
    rows: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    longest_row: int = 0
    """In tokens."""
    findings: list[dict[str, Any]] = []
    finding_counts: dict[str, int] = {}


class Invalid(Exception):
    """The job cannot go on, and this is what its user reads."""

    def __init__(
        self, message: str, *, code: str, param: str | None, reason: FailureReason = FailureReason.INVALID_FILE
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.reason = message, code, param, reason

    def body(self) -> dict[str, str | None]:
        return {"code": self.code, "message": self.message, "param": self.param, "reason": self.reason.value}


@dataclass(frozen=True)
class Preparation:
    """What all files of a job share."""

    method: Method
    tokens: Tokens
    renderer: Renderer | None
    line_bytes: int
    progress: Callable[[str, int, bool], None]


def prepare_file(file: FileRequest, source: Path, target: Path, shared: Preparation, report: FileReport) -> None:
    """Write the file's arrays and fill its report; Invalid if it cannot be trained on."""
    findings = Findings()
    with Spool(target) as spool:
        reader = _Reader(file, shared, findings, spool, report)
        try:
            reader.read(source)
        finally:
            report.findings, report.finding_counts = findings.listed, dict(findings.counts)
        _require_valid(file, report, findings)
        spool.save()
        report.tokens, report.longest_row = sum(spool.lengths), max(spool.lengths, default=0)
        report.supervised_tokens = spool.supervised_tokens


@dataclass
class _Reader:
    file: FileRequest
    shared: Preparation
    findings: Findings
    spool: Spool
    report: FileReport
    format: Format | None = None
    batch: list[Rendered | Passage] = field(default_factory=list)
    batch_bytes: int = 0

    def read(self, source: Path) -> None:
        for line_number, line in read_lines(source, self.shared.line_bytes):
            if isinstance(line, bytes) and not line.strip():
                self.findings.warning(line_number, "blank_line", f"Line {line_number} is blank and skipped.")
                continue
            self.report.rows += 1
            try:
                self._take(line_number, line)
            except RowError as error:
                self.findings.error(line_number, error.code, _example(line_number, error.message))
            except TooSlow:
                message = f"takes longer than {ROW_SECONDS:g} s to render"
                self.findings.error(line_number, "too_slow", _example(line_number, message))
            self.shared.progress(self.file.name, self.report.rows, False)
        self._flush()
        self.shared.progress(self.file.name, self.report.rows, True)

    def _take(self, line_number: int, line: bytes | RowError) -> None:
        if isinstance(line, RowError):
            raise line
        if self.report.rows == 1 and line.lstrip().startswith(b"["):
            raise _not_jsonl(self.file)
        row = decode(line)
        name = detect(row)
        if self.format is None:
            self.format = self._choose(name)
        if name != self.format.name:
            raise RowError(
                f"is not in the {self.format.title} format, as the examples before it are", code="mixed_formats"
            )
        with time_limit(ROW_SECONDS):
            example = self._rendered(self.format.parse(row))
        for notice in example.notices:
            self.findings.warning(line_number, notice.code, _example(line_number, notice.message))
        # Once the file is known to be invalid, its rows are still checked, but there is no use for their tokens.
        if self.findings.first_error is None:
            self._add(example)

    def _choose(self, name: str | None) -> Format:
        if name is None:
            message = "Unexpected file format, expected either prompt/completion pairs or chat messages."
            raise _invalid(self.file, message)
        method = self.shared.method
        if name not in method.formats:
            raise _invalid(
                self.file,
                f"Input file {self.file.file_id} is in the {FORMATS[name].title} format, but the specified fine-tuning "
                f"job is not using 'supervised' as the training method (provided method={method.type}).",
            )
        self.report.format = name
        return FORMATS[name]

    def _rendered(self, example: Example) -> Rendered | Passage:
        if not isinstance(example, Conversation):
            return example
        if self.shared.renderer is None:
            message = "The base model has no chat template, so it cannot learn from chat messages. "
            message += "Choose a base model made for chat, or write the rows as prompt and completion."
            raise Invalid(message, code="no_chat_template", param="model", reason=FailureReason.INVALID_RECIPE)
        return self.shared.renderer.render(example, self.shared.method.chosen().get("train_on", "all"))

    def _add(self, example: Rendered | Passage) -> None:
        self.batch.append(example)
        texts = [example.text] if isinstance(example, Rendered) else [example.given, example.given, example.learnt]
        self.batch_bytes += sum(len(text.encode()) for text in texts)
        if self.batch_bytes >= BATCH_BYTES or len(self.batch) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        batch, size, self.batch, self.batch_bytes = self.batch, self.batch_bytes, [], 0
        if batch and self.findings.first_error is None:
            require_memory(size * TOKENIZER_BYTES)
            with exit_if_stuck(BATCH_SECONDS):
                rows = _tokenised(batch, self.shared.tokens)
            self.spool.append(rows)


def _example(line_number: int, problem: str) -> str:
    """Reads as a sentence, and where OpenAI's own message is known, as that one."""
    names_a_part = problem.startswith(("message", "'", "key", "tools", "functions"))
    return f"Example {line_number}{',' if names_a_part else ''} {problem}"


def _tokenised(batch: list[Rendered | Passage], tokens: Tokens) -> list[TokenRow]:
    """All rows of a file have one format."""
    rendered = [example for example in batch if isinstance(example, Rendered)]
    passages = [(example.given, example.learnt) for example in batch if isinstance(example, Passage)]
    return tokens.encode_spanned(rendered) if rendered else tokens.encode_passages(passages)


def _require_valid(file: FileRequest, report: FileReport, findings: Findings) -> None:
    if findings.first_error is not None:
        raise _invalid(file, f"Invalid file format. {findings.first_error}")
    if report.rows < file.min_rows:
        raise Invalid(
            f"{_kind(file).capitalize()} file has {report.rows} example(s), "
            f"but must have at least {file.min_rows} examples",
            code="invalid_n_examples",
            param=file.param,
        )


def _invalid(file: FileRequest, message: str) -> Invalid:
    """OpenAI's words and codes."""
    kind = _kind(file)
    return Invalid(
        f"The job failed due to an invalid {kind} file. {message}", code=f"invalid_{kind}_file", param=file.param
    )


def _not_jsonl(file: FileRequest) -> Invalid:
    return _invalid(
        file,
        "Expected file to have JSONL format, where every line is a valid JSON dictionary; it begins with a JSON array.",
    )


def _kind(file: FileRequest) -> str:
    return "validation" if file.param == "validation_file" else "training"
