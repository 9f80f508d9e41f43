"""`python -m worker.prepare RUN_DIR`: files of rows become arrays of tokens, or a list of what is wrong with them.

A child behind the wall (docs/architecture.md): reads RUN_DIR/prepare.json, input/ and base/, writes data/ and
report.json. Everything it reads was written by strangers, so it limits its own memory, CPU time and output first.
Exit 0: report.json tells the outcome, good or bad.
"""

import errno
import sys
from pathlib import Path
from typing import Any

import msgspec
from pydantic import TypeAdapter

from api.spec.lifecycle import FailureReason
from api.spec.methods import Method
from api.spec.recipe import Reasoning
from worker.rows.errors import FileRequest, JobRejected, wrong_forced_format
from worker.rows.limits import CpuTimeUsedUp, limit_process
from worker.rows.prepare_file import FileReport, Preparation, prepare_file
from worker.rows.readers import ReadLimits
from worker.rows.row_builder import LabelSpec, RowBuilder, load_renderer
from worker.rows.tokenizer import TokenizerWrapper
from worker.rows.warnings import RowWarnings
from worker.shared.pipe import Progress


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    memory_bytes: int | None = None
    """Private memory of the process."""
    cpu_seconds: int | None = None
    line_bytes: int = 1 << 20
    """Longest line of an input file."""
    file_bytes: int | None = None
    """Largest file written."""
    rows: int = 5_000_000
    """Most rows of an input file."""
    decompressed_bytes: int = 16 << 30
    """Most that a compressed input file may become."""

    def reading(self) -> ReadLimits:
        return ReadLimits(self.line_bytes, self.rows, self.decompressed_bytes)


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """prepare.json."""

    job_id: str
    method: dict[str, Any]
    files: list[FileRequest]
    """The training file before the validation file, which is compared with it."""
    format: str | None = None
    """What the rows are to be taken for; None: what their keys show."""
    reasoning: Reasoning = "auto"
    """Whose reasoning in conversations is rendered and learnt."""
    context_window: int | None = None
    """Of the base model, in tokens; None where it does not matter."""
    trained: LabelSpec = msgspec.field(default_factory=LabelSpec)
    """Of the model that the job continues, or of the training file where that was prepared before."""
    limits: Limits = msgspec.field(default_factory=Limits)


class Report(msgspec.Struct):
    """report.json."""

    ok: bool
    files: list[FileReport]
    error: dict[str, str | None] | None = None
    """code, message and param as the API shows them; reason is a FailureReason."""


def main(run_dir: Path) -> int:
    request = msgspec.json.decode((run_dir / "prepare.json").read_bytes(), type=Request)
    limits = request.limits
    limit_process(memory_bytes=limits.memory_bytes, cpu_seconds=limits.cpu_seconds, file_bytes=limits.file_bytes)
    report = Report(ok=True, files=[])
    try:
        prepare(run_dir, request, report)
    except JobRejected as invalid:
        report.ok, report.error = False, invalid.body()
    except (MemoryError, CpuTimeUsedUp, OSError) as error:
        report.ok, report.error = False, _limit_reached(error).body()
    partial = run_dir / "report.json.partial"
    partial.write_bytes(msgspec.json.encode(report))
    partial.replace(run_dir / "report.json")
    return 0


def prepare(run_dir: Path, request: Request, report: Report) -> None:
    """Fill the report file by file; Invalid at the first file that cannot be trained on."""
    method = TypeAdapter[Method](Method).validate_python(request.method)
    (run_dir / "data").mkdir(exist_ok=True)
    if request.format is not None and request.format not in method.formats:
        raise wrong_forced_format(request.format, method)
    tokens = TokenizerWrapper.load(run_dir / "base")
    preparation = Preparation(
        method=method,
        tokens=tokens,
        composer=RowBuilder(
            method,
            load_renderer(run_dir / "base", tokens, request.reasoning),
            reasoning=request.reasoning,
            doubts=RowWarnings(tokens),
        ),
        read_limits=request.limits.reading(),
        context_window=request.context_window,
        format=request.format,
        progress=Progress(),
        trained=request.trained,
    )
    for file in request.files:
        file_report = FileReport(name=file.name)
        report.files.append(file_report)
        prepare_file(file, run_dir / file.path, run_dir / "data" / f"{file.name}.safetensors", preparation, file_report)


def _limit_reached(error: BaseException) -> JobRejected:
    if isinstance(error, MemoryError):
        message = "Preparing the files needed more memory than it may use. Split long rows, or use a smaller file."
        return JobRejected(message, code="out_of_memory", param=None, reason=FailureReason.OUT_OF_MEMORY)
    if isinstance(error, CpuTimeUsedUp):
        message = "Preparing the files took more processor time than it may use. Use a smaller file."
        return JobRejected(message, code="file_too_slow", param="training_file", reason=FailureReason.INVALID_FILE)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        message = "The worker's disk was full while it prepared the files."
        return JobRejected(message, code="disk_full", param=None, reason=FailureReason.DISK_FULL)
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        message = "The rows become more tokens than may be stored. Use a smaller file."
        return JobRejected(message, code="file_too_large", param="training_file", reason=FailureReason.INVALID_FILE)
    raise error


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
