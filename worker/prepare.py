"""`python -m worker.prepare RUN_DIR`: turns files of rows into arrays of tokens, or reports what is wrong with the
files.

A child behind the wall (docs/internals/wall.md): it reads RUN_DIR/prepare.json, input/ and base/, and writes data/ and
report.json. Its input comes from strangers, so it first limits its own memory, processor time and output. Exit 0:
report.json holds the outcome, good or bad.
"""

import errno
import sys
import time
from pathlib import Path

import msgspec

from api.spec.lifecycle import FailureReason
from api.spec.recipe import Reasoning
from worker.rows.child_io import RowLimits, write_report
from worker.rows.errors import FileRequest, JobRejected, validate_method
from worker.rows.limits import CpuTimeUsedUp
from worker.rows.prepare_file import FileReport, Preparation, prepare_file
from worker.rows.row_builder import LabelSpec, load_builder
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.pipe import Progress


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The content of prepare.json."""

    job_id: str
    method: dict[str, object]
    files: list[FileRequest]
    """The training file comes first, because the rows of the validation file are compared with its rows."""
    format: str | None = None
    """The rows' format. None: detected from their keys."""
    reasoning: Reasoning = "auto"
    """The reasoning of assistant messages that is rendered and supervised."""
    context_window: int | None = None
    """Maximum number of tokens that the base model can read. Longer rows are reported. None: the maximum is unknown,
    and no row is reported as too long."""
    trained: LabelSpec = msgspec.field(default_factory=LabelSpec)
    """The labels that rows must have: the labels of the model that the job continues, or of the training file, if only
    the validation file is prepared because the training file's arrays are already stored."""
    rendered_at: float | None = None
    """The time that the chat template writes, in Unix time. None: now."""
    limits: RowLimits = msgspec.field(default_factory=RowLimits)


class Report(msgspec.Struct):
    """The content of report.json."""

    ok: bool
    files: list[FileReport]
    error: dict[str, str | None] | None = None
    """The error's `code`, `message` and `param` as the API shows them; `reason` is a FailureReason."""


def main(folder: str) -> int:
    run_dir = Path(folder)
    request = msgspec.json.decode((run_dir / "prepare.json").read_bytes(), type=Request)
    request.limits.apply()
    report = Report(ok=True, files=[])
    try:
        prepare(run_dir, request, report)
    except JobRejected as rejected:
        report.ok, report.error = False, rejected.body()
    except (MemoryError, CpuTimeUsedUp, OSError) as error:
        report.ok, report.error = False, _limit_reached(error).body()
    write_report(run_dir, msgspec.json.encode(report))
    return 0


def prepare(run_dir: Path, request: Request, report: Report) -> None:
    """Write the arrays, and fill the report file by file. Raises JobRejected at the first file that is unusable."""
    method = validate_method(request.method, request.format)
    (run_dir / "data").mkdir(exist_ok=True)
    tokenizer = TokenizerWrapper.load(run_dir / "base")
    rendered_at = time.time() if request.rendered_at is None else request.rendered_at
    preparation = Preparation(
        method=method,
        tokenizer=tokenizer,
        builder=load_builder(run_dir / "base", method, tokenizer, request.reasoning, rendered_at),
        read_limits=request.limits.read_limits(),
        context_window=request.context_window,
        forced_format=request.format,
        progress=Progress(),
        label_spec=request.trained,
    )
    for file in request.files:
        file_report = FileReport(name=file.name, rendered_at=rendered_at)
        report.files.append(file_report)
        prepare_file(file, run_dir / file.path, run_dir / "data" / f"{file.name}.safetensors", preparation, file_report)


def _limit_reached(error: BaseException) -> JobRejected:
    if isinstance(error, MemoryError):
        message = "Preparing the files took more memory than allowed. Split long rows, or use a smaller file."
        return JobRejected(message, code="out_of_memory", param=None, reason=FailureReason.OUT_OF_MEMORY)
    if isinstance(error, CpuTimeUsedUp):
        message = "Preparing the files took more processor time than allowed. Use a smaller file."
        return JobRejected(message, code="file_too_slow", param="training_file", reason=FailureReason.INVALID_FILE)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        message = "The worker's disk was full while it prepared the files."
        return JobRejected(message, code="disk_full", param=None, reason=FailureReason.DISK_FULL)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        message = "The rows have more tokens than may be stored. Use a smaller file."
        return JobRejected(message, code="file_too_large", param="training_file", reason=FailureReason.INVALID_FILE)
    raise error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
