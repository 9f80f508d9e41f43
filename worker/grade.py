"""`python -m worker.grade FOLDER`: grades one answer, or checks a grader's scripts, for a user who tries a grader.

A child behind the wall (docs/internals/wall.md), started by the API: it reads FOLDER/request.json and writes
FOLDER/report.json. Some metrics take time that grows with the product of two texts' lengths, so the process has limits.
The limits apply to all parts of a grader together.
"""

import json
import sys
from pathlib import Path

import msgspec
from pydantic import TypeAdapter

from api.spec.graders import Case, Grade, Grader, Verdict, grade
from api.spec.graders.base import EMBEDDING_MODEL
from worker.rows.child_io import ProcessLimits, write_report
from worker.rows.limits import CpuTimeUsedUp
from worker.shared.embeddings import similarity_verdicts


class Request(ProcessLimits, kw_only=True):
    """The content of request.json."""

    grader: dict[str, object]
    model_sample: str | None
    """The answer to grade. None: only check the grader's scripts."""
    item: dict[str, object]
    verdicts: dict[str, Verdict] | None = None
    """Chat models' verdicts on the grader's questions, by the questions' keys. None: no model was asked yet. A report
    on a grader that has questions then lists the questions instead of a grade."""
    embedding_model: str | None = None
    """Folder of the operator's embedding model, for `cosine`."""
    file_bytes: int | None = 64 << 20


def main(run_folder: str) -> int:
    folder = Path(run_folder)
    # Both sides use `json`, not msgspec: texts may hold lone surrogates, which msgspec refuses.
    request = msgspec.convert(json.loads((folder / "request.json").read_bytes()), Request)
    request.apply()
    try:
        report = check_scripts(request) if request.model_sample is None else run_grader(request, request.model_sample)
    except (CpuTimeUsedUp, MemoryError):
        message = (
            f"Grading took more than {request.cpu_seconds} s of processor time, or more memory than allowed. Shorten "
            "the texts"
        )
        report = _refusal(code="grader_too_slow", message=message, param="grader")
    write_report(folder, json.dumps(report).encode())
    return 0


def run_grader(request: Request, model_sample: str) -> dict[str, object]:
    """Return a report as JSON values: the grade, or the questions that chat models must answer first."""
    grader = TypeAdapter[Grader](Grader).validate_python(request.grader)
    questions = grader.questions(Case(model_sample, request.item))
    if grader.needs_model and request.verdicts is None:
        asked = [msgspec.to_builtins(question) for question in questions if question.model != EMBEDDING_MODEL]
        return {"grade": None, "error": None, "questions": asked}
    verdicts = {**(request.verdicts or {}), **similarity_verdicts(request.embedding_model, questions)}
    graded = grade(grader, model_sample, request.item, verdicts=verdicts)
    return {"grade": TypeAdapter(Grade).dump_python(graded), "error": None}


def check_scripts(request: Request) -> dict[str, object]:
    """Return a report with the first error found in a script, if there is one."""
    grader = TypeAdapter[Grader](Grader).validate_python(request.grader)
    for path, fault in grader.faults().items():
        return _refusal(code="invalid_grader", message=f"grader.{path}: {fault}", param=f"grader.{path}")
    return {"grade": None, "error": None}


def _refusal(*, code: str, message: str, param: str) -> dict[str, object]:
    return {"grade": None, "error": {"code": code, "message": message, "param": param}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
