"""Rows read, checked and composed for a look at them: nothing is stored, and a bad row is told and passed by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.spec.formats import FORMATS, Format, Row, RowError, RowWarning, closest_format, detect
from api.spec.methods import Method
from worker.rows.check_row import Meaning, check_row
from worker.rows.duplicates import DuplicateDetector
from worker.rows.errors import FileRequest, invalid_file, unexpected_format, wrong_format
from worker.rows.findings import Findings
from worker.rows.label_balance import check_labels
from worker.rows.labels import Labels
from worker.rows.readers import FileError, ReadLimits, open_rows
from worker.rows.render import Rendered
from worker.rows.row_builder import LabelSpec, RowBuilder, TokenizableRow
from worker.rows.tokenizer import PromptCompletionText, TokenizerWrapper, TokenRow


@dataclass
class Examined:
    """A row of the file. Without `composed` it is invalid, and `findings` say why, or it was not wanted."""

    row: int
    """From 1, blank lines not counted."""
    line: int
    composed: list[TokenizableRow] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    wanted: bool = True


@dataclass
class Examiner:
    """Reads one file for a method. `wanted(row)` tells which rows are worth composing: the others are only counted."""

    file: FileRequest
    method: Method
    composer: RowBuilder
    limits: ReadLimits
    forced: str | None
    whole: bool = True
    """Not only the file's beginning was given: what is wrong at its end is wrong with the file."""
    container: str | None = None
    format: Format | None = None
    labels: Labels | None = None
    seen: DuplicateDetector = field(default_factory=DuplicateDetector)
    blank: Findings = field(default_factory=Findings)
    """Blank lines before the next row."""

    def rows(self, source: Path, wanted: Any) -> Iterator[Examined]:
        """Raises Invalid where the file cannot be read, or is of no format that the method learns from."""
        self.composer.begin_file()
        if self.forced is not None:
            self._take_as(self.forced)
        count = 0
        try:
            self.container, rows = open_rows(source, self.limits)
            for line, row in rows:
                if row is None:
                    self.blank.warning(line, "blank_line", f"Line {line} is blank and skipped.")
                    continue
                count += 1
                yield self._examine(Examined(count, line, wanted=wanted(count)), row)
        except FileError as error:
            if self.whole or not count:
                raise invalid_file(self.file, error.message) from None

    def _examine(self, examined: Examined, row: Row | RowError) -> Examined:
        if not examined.wanted:
            return examined
        findings, self.blank = self.blank, Findings()
        line = examined.line
        composed = check_row(line, row, self._compose, findings, lambda: self._seen(line, row))
        examined.composed, examined.findings = composed or [], findings.listed
        return examined

    def _compose(self, row: Row) -> Meaning[list[TokenizableRow]]:
        composed, notices = self.composer.compose(self._format_of(row).read(row))
        return Meaning(composed, notices, [each.label for each in composed], self.labels)

    def _seen(self, line: int, row: Row | RowError) -> list[RowWarning]:
        return [] if isinstance(row, RowError) else self.seen.notices(line, row)

    def whole_file(self) -> list[dict[str, Any]]:
        """What is to be said of all rows together, once every one was examined."""
        findings = self.blank
        check_labels(self.labels, findings, self.file.kind)
        return findings.listed

    def _format_of(self, row: Row) -> Format:
        """The same rules as in prepare: the first row that is one decides."""
        if self.format is None:
            name = detect(row, self.method.formats)
            if name not in self.method.formats:
                if found := closest_format(row, self.method.formats):
                    raise RowError(f"key '{found[1]}' is missing", code="missing_key")
                raise (
                    unexpected_format(self.file, self.method, row)
                    if name is None
                    else wrong_format(self.file, name, self.method)
                )
            self._take_as(name)
        assert self.format is not None
        return self.format

    def _take_as(self, name: str) -> None:
        self.format = FORMATS[name]
        self.labels = self.composer.labels(name, LabelSpec())


def tokenised(texts: Sequence[Rendered | PromptCompletionText], tokens: TokenizerWrapper) -> list[TokenRow]:
    """In the order of the texts."""
    rendered = iter(tokens.encode_spanned([text for text in texts if isinstance(text, Rendered)]))
    plain = iter(tokens.encode_plain([text for text in texts if isinstance(text, PromptCompletionText)]))
    return [next(rendered) if isinstance(text, Rendered) else next(plain) for text in texts]
