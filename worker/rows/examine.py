"""Rows read, checked and composed for a look at them: nothing is stored, and a bad row is told and passed by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.formats import FORMATS, Format, Row, RowError, almost, detect
from api.methods import Method
from worker.rows.compose import Composed, Composer
from worker.rows.findings import Findings, example
from worker.rows.invalid import FileRequest, invalid_file, unexpected_format, wrong_format
from worker.rows.limits import TooSlow, time_limit
from worker.rows.readers import FileError, ReadLimits, open_rows
from worker.rows.render import Rendered
from worker.rows.tokens import Plain, TokenRow, Tokens

ROW_SECONDS = 2.0


@dataclass
class Examined:
    """A row of the file. Without `composed` it is invalid, and `findings` say why, or it was not wanted."""

    row: int
    """From 1, blank lines not counted."""
    line: int
    composed: list[Composed] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    wanted: bool = True


@dataclass
class Examiner:
    """Reads one file for a method. `wanted(row)` tells which rows are worth composing: the others are only counted."""

    file: FileRequest
    method: Method
    composer: Composer
    limits: ReadLimits
    forced: str | None
    whole: bool = True
    """Not only the file's beginning was given: what is wrong at its end is wrong with the file."""
    container: str | None = None
    format: Format | None = None

    def rows(self, source: Path, wanted: Any) -> Iterator[Examined]:
        """Raises Invalid where the file cannot be read, or is of no format that the method learns from."""
        if self.forced is not None:
            self.format = FORMATS[self.forced]
        count = 0
        try:
            self.container, rows = open_rows(source, self.limits)
            for line, row in rows:
                if row is None:
                    continue
                count += 1
                yield self._examine(Examined(count, line, wanted=wanted(count)), row)
        except FileError as error:
            if self.whole or not count:
                raise invalid_file(self.file, error.message) from None

    def _examine(self, examined: Examined, row: Row | RowError) -> Examined:
        if not examined.wanted:
            return examined
        findings = Findings()
        try:
            if isinstance(row, RowError):
                raise row
            chosen = self._format_of(row)
            with time_limit(ROW_SECONDS):
                examined.composed, notices = self.composer.compose(chosen.parse(row))
            for notice in notices:
                findings.warning(examined.line, notice.code, example(examined.line, notice.message))
        except RowError as error:
            findings.error(examined.line, error.code, example(examined.line, error.message))
        except RecursionError:
            findings.error(examined.line, "too_deep", example(examined.line, "is nested too deeply"))
        except TooSlow:
            findings.error(examined.line, "too_slow", example(examined.line, "takes too long to render"))
        examined.findings = findings.listed
        return examined

    def _format_of(self, row: Row) -> Format:
        """The same rules as in prepare: the first row that is one decides."""
        if self.format is None:
            name = detect(row, self.method.formats)
            if name not in self.method.formats:
                if found := almost(row, self.method.formats):
                    raise RowError(f"key '{found[1]}' is missing", code="missing_key")
                raise (
                    unexpected_format(self.file, self.method)
                    if name is None
                    else wrong_format(self.file, name, self.method)
                )
            self.format = FORMATS[name]
        if not self.format.matches(row):
            key = self.format.missing_key(row)
            if key is not None:
                raise RowError(f"key '{key}' is missing", code="missing_key")
            raise RowError(f"is not in the {self.format.title} format, as the others are", code="mixed_formats")
        return self.format


def tokenised(texts: Sequence[Rendered | Plain], tokens: Tokens) -> list[TokenRow]:
    """In the order of the texts."""
    rendered = iter(tokens.encode_spanned([text for text in texts if isinstance(text, Rendered)]))
    plain = iter(tokens.encode_plain([text for text in texts if isinstance(text, Plain)]))
    return [next(rendered) if isinstance(text, Rendered) else next(plain) for text in texts]
