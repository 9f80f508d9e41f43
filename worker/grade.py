"""`python -m worker.grade FOLDER`: one answer graded, for a user who tries a grader out.

A child behind the wall (docs/architecture.md), which the API starts: it reads FOLDER/request.json and writes
FOLDER/report.json. Metrics of long texts take time that grows with the product of two lengths: its limits hold for all
parts of a grader together.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from api.spec.graders import Grade, Grader, grade
from worker.rows.limits import CpuTimeUsedUp, limit_process


def main(folder: Path) -> int:
    request = json.loads((folder / "request.json").read_bytes())  # a text may be one that UTF-8 cannot write
    seconds = request["cpu_seconds"]
    limit_process(memory_bytes=request["memory_bytes"], cpu_seconds=seconds, file_bytes=64 << 20)
    try:
        report = {"grade": graded(request), "error": None}
    except (CpuTimeUsedUp, MemoryError):
        message = (
            f"Grading took more than {seconds} s of processor time, or the memory that it may use: shorten the texts"
        )
        report = {"grade": None, "error": {"code": "grader_too_slow", "message": message, "param": "grader"}}
    partial = folder / "report.json.partial"
    partial.write_text(json.dumps(report))
    partial.replace(folder / "report.json")
    return 0


def graded(request: dict[str, Any]) -> Any:
    grader = TypeAdapter[Grader](Grader).validate_python(request["grader"])
    return TypeAdapter(Grade).dump_python(grade(grader, request["model_sample"], request["item"]))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
