"""`python -m worker.grade FOLDER`: grades one answer, or checks a grader's scripts, for a user who tries a grader.

A child behind the wall (docs/internals/wall.md), started by the API: it reads FOLDER/request.json and writes
FOLDER/report.json. Some metrics take time that grows with the product of two lengths; the limits hold for all parts of
a grader together.
"""

import json
import sys
from pathlib import Path

import msgspec
from pydantic import TypeAdapter

from api.spec.graders import Grade, Grader, grade
from worker.rows.child_io import ProcessLimits, write_report
from worker.rows.limits import CpuTimeUsedUp


class Request(ProcessLimits, kw_only=True):
    """request.json."""

    grader: dict[str, object]
    model_sample: str | None
    """None: the grader's scripts are checked, and nothing is graded."""
    item: dict[str, object]
    file_bytes: int | None = 64 << 20


def main(run_folder: str) -> int:
    folder = Path(run_folder)
    # Texts may hold lone surrogates, which UTF-8 cannot encode and msgspec refuses: hence json on both sides.
    request = msgspec.convert(json.loads((folder / "request.json").read_bytes()), Request)
    request.apply()
    try:
        report = check_scripts(request) if request.model_sample is None else run_grader(request, request.model_sample)
    except (CpuTimeUsedUp, MemoryError):
        message = (
            f"Grading took more than {request.cpu_seconds} s of processor time, or more memory than allowed. Shorten "
            "the texts"
        )
        report = {"grade": None, "error": {"code": "grader_too_slow", "message": message, "param": "grader"}}
    write_report(folder, json.dumps(report).encode())
    return 0


def run_grader(request: Request, model_sample: str) -> dict[str, object]:
    """Return a report with the grade as JSON values."""
    grader = TypeAdapter[Grader](Grader).validate_python(request.grader)
    return {"grade": TypeAdapter(Grade).dump_python(grade(grader, model_sample, request.item)), "error": None}


def check_scripts(request: Request) -> dict[str, object]:
    """Return a report with the first script's error, if there is one."""
    grader = TypeAdapter[Grader](Grader).validate_python(request.grader)
    for path, fault in grader.faults().items():
        error = {"code": "invalid_grader", "message": f"grader.{path}: {fault}", "param": f"grader.{path}"}
        return {"grade": None, "error": error}
    return {"grade": None, "error": None}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
