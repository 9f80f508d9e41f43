"""`python -m worker.preview FOLDER`: a look at rows before they are prepared, for a preview or an estimate.

A child behind the wall (docs/architecture.md), which the API starts: it has the tokenizer and the template of a base
model in FOLDER/base, beginnings of files (or arrays made of them before) beside it, and writes FOLDER/report.json. It
stores nothing, and its limits on time and memory are those of an answer that someone waits for.
"""

import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import TypeAdapter

from api.spec.lifecycle import FailureReason
from api.spec.methods import Method
from api.spec.recipe import Reasoning
from worker.rows.errors import FileRequest, JobRejected, invalid_file, wrong_forced_format
from worker.rows.examiner import Examiner, tokenised
from worker.rows.limits import CpuTimeUsedUp, limit_process
from worker.rows.preview_rows import PreviewRow, seen_row
from worker.rows.readers import ReadLimits
from worker.rows.row_builder import RowBuilder, load_renderer
from worker.rows.token_counts import SAMPLED_ROWS, Sample
from worker.rows.tokenizer import TokenizerWrapper
from worker.rows.warnings import RowWarnings
from worker.shared.counts import Counts, count_arrays


class PreviewFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file of rows, or the arrays that it became."""

    file: FileRequest
    arrays_of_rows: int | None = None
    """The path is of arrays, made of so many rows."""
    rows: int | None = None
    """Of the file, where a scan has counted them."""
    share: float = 1.0
    """Of the file's bytes that are given: its beginning."""


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """preview.json."""

    want: Literal["rows", "counts"]
    method: dict[str, Any]
    files: list[PreviewFile]
    memory_bytes: int
    cpu_seconds: int
    format: str | None = None
    reasoning: Reasoning = "auto"
    context_window: int | None = None
    max_length: int | None = None
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    rows: int = 10
    """How many rows are shown."""


class Report(msgspec.Struct):
    """report.json."""

    format: str | None = None
    container: str | None = None
    rows: list[PreviewRow] = []
    counts: dict[str, Counts] = {}
    findings: list[dict[str, Any]] = []
    """Of counted rows, the first few; and of the file as a whole, where all of it was looked at."""
    error: dict[str, str | None] | None = None
    """code, message and param as the API shows them; reason is a FailureReason."""


MAX_FINDINGS = 20


def main(folder: Path) -> int:
    request = msgspec.json.decode((folder / "preview.json").read_bytes(), type=Request)
    limit_process(memory_bytes=request.memory_bytes, cpu_seconds=request.cpu_seconds, file_bytes=64 << 20)
    report = Report()
    try:
        look(folder, request, report)
    except JobRejected as invalid:
        report.error = invalid.body()
    except (MemoryError, CpuTimeUsedUp):
        message = "Looking at these rows took more time or memory than a preview may use. Give fewer or shorter rows."
        report.error = JobRejected(message, code="rows_too_large", param="training_file").body()
    partial = folder / "report.json.partial"
    partial.write_bytes(msgspec.json.encode(report))
    partial.replace(folder / "report.json")
    return 0


def look(folder: Path, request: Request, report: Report) -> None:
    """Fill the report. Raises Invalid."""
    method = TypeAdapter[Method](Method).validate_python(request.method)
    if request.format is not None and request.format not in method.formats:
        raise wrong_forced_format(request.format, method)
    tokens = composer = None
    for each in request.files:
        path = folder / each.file.path
        if each.arrays_of_rows is not None:
            report.counts[each.file.name] = count_arrays(
                path,
                rows=each.arrays_of_rows,
                asked=request.max_length,
                window=request.context_window,
                drop=request.overlong == "drop",
            )
            continue
        if tokens is None or composer is None:
            tokens = TokenizerWrapper.load(folder / "base")
            renderer = load_renderer(folder / "base", tokens, request.reasoning)
            composer = RowBuilder(method, renderer, reasoning=request.reasoning, doubts=RowWarnings(tokens))
        limits = ReadLimits(1 << 20, 5_000_000, 16 << 30)
        examiner = Examiner(each.file, method, composer, limits, request.format, whole=each.share >= 1)
        if request.want == "rows":
            _show(path, request, examiner, tokens, report)
        else:
            report.counts[each.file.name] = _count(path, request, each, examiner, tokens, report)
        report.container = examiner.container
        report.format = examiner.format.name if examiner.format else None


def _show(path: Path, request: Request, examiner: Examiner, tokens: TokenizerWrapper, report: Report) -> None:
    limit = min(value for value in (request.max_length, request.context_window, 1 << 40) if value is not None)
    for examined in examiner.rows(path, lambda row: row <= request.rows):
        if not examined.wanted:
            break
        report.rows += seen_row(examined, tokens, limit, drop=request.overlong == "drop")
    else:
        report.findings = examiner.whole_file() if examiner.whole else []


def _count(
    path: Path, request: Request, given: PreviewFile, examiner: Examiner, tokens: TokenizerWrapper, report: Report
) -> Counts:
    sample, rows = Sample(stride=max(1, round((given.rows or 0) * given.share / SAMPLED_ROWS))), 0
    for examined in examiner.rows(path, sample.wants):
        rows = examined.row
        report.findings += examined.findings[: max(0, MAX_FINDINGS - len(report.findings))]
        if examined.wanted and not examined.composed:
            raise invalid_file(given.file, f"Invalid file format. {examined.findings[0]['message']}")
        if examined.composed:
            found = [tokenised(each.sequences, tokens) for each in examined.composed]
            sample.add(examined.row, examined.composed, found)
    if not rows:
        raise JobRejected(
            f"{given.file.kind.capitalize()} file has 0 examples",
            code="invalid_n_examples",
            param=given.file.param,
            reason=FailureReason.INVALID_FILE,
        )
    report.findings += examiner.whole_file()[: max(0, MAX_FINDINGS - len(report.findings))] if given.share >= 1 else []
    share = 1.0 if examiner.container == "parquet" else given.share  # such a file is always given whole
    counts = sample.counts(
        given.rows or round(rows / share),
        asked=request.max_length,
        window=request.context_window,
        drop=request.overlong == "drop",
    )
    counts.labels = examiner.labels.classes() if examiner.labels else None
    return counts


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
