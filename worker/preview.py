"""`python -m worker.preview FOLDER`: shows or counts rows before they are prepared, for a preview or an estimate.

A child process (docs/internals/wall.md) of the API. It reads FOLDER/preview.json, the tokenizer and chat template of a
base model in FOLDER/base, and the beginnings of files, or arrays that were prepared from files before. It writes
FOLDER/report.json and stores nothing else. A client waits for the report, so the limits on time and memory are tight.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from api.spec.lifecycle import FailureReason
from api.spec.recipe import Reasoning
from worker.rows.child_io import ProcessLimits, write_report
from worker.rows.errors import FileRequest, JobRejected, invalid_file, validate_method
from worker.rows.file_rows import FileRows
from worker.rows.findings import Finding
from worker.rows.limits import CpuTimeUsedUp
from worker.rows.preview_rows import PreviewRow, preview_rows
from worker.rows.readers import ReadLimits
from worker.rows.row_builder import RowBuilder, load_builder
from worker.rows.token_counts import SAMPLED_ROWS, RowSample
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.counts import Counts, count_arrays


class PreviewFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file of rows, or the arrays that were prepared from it."""

    file: FileRequest
    arrays_of_rows: int | None = None
    """If the path holds prepared arrays: number of rows in the file that they were prepared from. None: the path holds
    a file of rows."""
    rows: int | None = None
    """Number of rows in the whole file. None: no scan has counted them."""
    share: float = 1.0
    """Share of the whole file's bytes that the path holds, from the beginning of the file."""


class Request(ProcessLimits, kw_only=True):
    """The content of preview.json."""

    want: Literal["rows", "counts"]
    method: dict[str, object]
    files: list[PreviewFile]
    file_bytes: int | None = 64 << 20
    format: str | None = None
    """The rows' format. None: detected from their keys."""
    reasoning: Reasoning = "auto"
    context_window: int | None = None
    max_length: int | None = None
    overlong: Literal["truncate", "drop", "error"] = "truncate"
    rows: int = 10
    """Number of rows to show, if `want` is "rows"."""


class Report(msgspec.Struct):
    """The content of report.json."""

    format: str | None = None
    container: str | None = None
    rows: list[PreviewRow] = []
    counts: dict[str, Counts] = {}
    findings: list[Finding] = []
    """Findings about whole files, if whole files were read. If `want` is "counts", also the first findings about the
    sampled rows. If `want` is "rows", findings about rows are in `rows`."""
    error: dict[str, str | None] | None = None
    """The error's `code`, `message` and `param` as the API shows them; `reason` is a FailureReason."""


MAX_FINDINGS = 20


def main(run_folder: str) -> int:
    folder = Path(run_folder)
    request = msgspec.json.decode((folder / "preview.json").read_bytes(), type=Request)
    request.apply()
    report = Report()
    try:
        run_preview(folder, request, report)
    except JobRejected as rejected:
        report.error = rejected.body()
    except (MemoryError, CpuTimeUsedUp):
        message = "Reading these rows took more time or memory than a preview may use. Send fewer or shorter rows."
        report.error = JobRejected(message, code="rows_too_large", param="training_file").body()
    write_report(folder, msgspec.json.encode(report))
    return 0


def run_preview(folder: Path, request: Request, report: Report) -> None:
    """Fill the report with rows or counts. Raises JobRejected if a file is invalid."""
    method = validate_method(request.method, request.format)

    @cache  # loaded on demand, because counting arrays needs neither tokenizer nor builder
    def load() -> tuple[TokenizerWrapper, RowBuilder]:
        tokenizer = TokenizerWrapper.load(folder / "base")
        return tokenizer, load_builder(folder / "base", method, tokenizer, request.reasoning)

    for source in request.files:
        name, path = source.file.name, folder / source.file.path
        if source.arrays_of_rows is not None:
            report.counts[name] = count_arrays(
                path,
                rows=source.arrays_of_rows,
                max_length=request.max_length,
                context_window=request.context_window,
                drop=request.overlong == "drop",
            )
            continue
        tokenizer, builder = load()
        rows = FileRows(source.file, method, builder, ReadLimits(), request.format, complete=source.share >= 1)
        if request.want == "rows":
            _show(path, request, rows, tokenizer, report)
        else:
            report.counts[name] = _count(path, request, source, rows, tokenizer, report)
        report.container = rows.container
        report.format = rows.format.name if rows.format else None


def _show(path: Path, request: Request, rows: FileRows, tokenizer: TokenizerWrapper, report: Report) -> None:
    limits = [value for value in (request.max_length, request.context_window) if value is not None]
    for row in rows.read(path, lambda number: number <= request.rows):
        if not row.wanted:
            return
        findings = rows.take_findings().listed
        report.rows += preview_rows(
            row, findings, tokenizer, min(limits, default=None), drop=request.overlong == "drop"
        )
    if rows.complete:
        rows.check_labels()
        report.findings = rows.take_findings().listed


def _count(
    path: Path, request: Request, source: PreviewFile, rows: FileRows, tokenizer: TokenizerWrapper, report: Report
) -> Counts:
    sample = RowSample(stride=max(1, round((source.rows or 0) * source.share / SAMPLED_ROWS)))
    for row in rows.read(path, sample.wants):
        if row.wanted and row.built and not rows.findings.errors:
            sample.add(row.number, row.built, [tokenizer.encode(built.sequences) for built in row.built])
    if (errors := rows.error_summary()) is not None:
        raise invalid_file(source.file, f"Invalid file format. {errors}")
    if not rows.count:
        raise JobRejected(
            f"{source.file.kind.capitalize()} file has 0 examples",
            code="invalid_n_examples",
            param=source.file.param,
            reason=FailureReason.INVALID_FILE,
        )
    if rows.complete:
        rows.check_labels()
    report.findings += rows.take_findings().listed[: max(0, MAX_FINDINGS - len(report.findings))]
    share = 1.0 if rows.container == "parquet" else source.share  # the path always holds a whole Parquet file
    counts = sample.counts(
        source.rows or round(rows.count / share),
        max_length=request.max_length,
        window=request.context_window,
        drop=request.overlong == "drop",
    )
    counts.labels = rows.labels.classes() if rows.labels else None
    return counts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
