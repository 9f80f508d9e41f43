"""`python -m worker.evaluate FOLDER`: checks an eval's scripts, checks the rows of its run, or grades an answer.

A child behind the wall (docs/internals/wall.md), started by the API and by the evaluation worker. It reads
FOLDER/request.json, does the `task` in it, and writes FOLDER/report.json. Users' schemas, scripts and metrics may take
very long on some texts, so the process has limits.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import TypeAdapter, ValidationError

from api.spec.evals.criteria import Criterion
from api.spec.evals.item_schema import problem, validator
from api.spec.evals.run_source import EvalRow
from api.spec.graders.base import Case
from api.spec.graders.grade import grade
from worker.rows.child_io import ProcessLimits, write_report
from worker.rows.limits import CpuTimeUsedUp
from worker.shared.embeddings import similarity_verdicts

CRITERIA = TypeAdapter[list[Criterion]](list[Criterion])
MAX_MESSAGE = 300


class Request(ProcessLimits, kw_only=True):
    """The content of request.json."""

    task: Literal["check_scripts", "check_rows", "grade"]
    criteria: list[dict[str, object]] = msgspec.field(default_factory=list)
    """The eval's testing criteria, for `check_scripts` and `grade`."""
    item_schema: dict[str, object] = msgspec.field(default_factory=dict)
    """For `check_rows`: the JSON Schema of the items in FOLDER/rows.jsonl."""
    needs_answers: bool = False
    """For `check_rows`: whether each row must have a `sample`, the answer to grade."""
    text: str | None = None
    """For `grade`: the answer's text. None: the row has no answer."""
    item: dict[str, object] = msgspec.field(default_factory=dict)
    """For `grade`: the item of the row that the answer belongs to."""
    tools: list[object] = msgspec.field(default_factory=list)
    """For `grade`: the answer's calls of functions."""
    embedding_model: str | None = None
    """Folder of the operator's embedding model, for `cosine`."""
    file_bytes: int | None = 64 << 20


def main(run_folder: str) -> int:
    folder = Path(run_folder)
    # Both sides use `json`, not msgspec: texts may hold lone surrogates, which msgspec refuses.
    request = msgspec.convert(json.loads((folder / "request.json").read_bytes()), Request)
    request.apply()
    try:
        if request.task == "check_rows":
            report = check_rows(request, folder / "rows.jsonl")
        else:
            criteria = CRITERIA.validate_python(request.criteria)
            report = check_scripts(criteria) if request.task == "check_scripts" else run_graders(criteria, request)
    except (CpuTimeUsedUp, MemoryError):
        message = f"The task took more than {request.cpu_seconds} s of processor time, or more memory than allowed"
        report = {"fault": message, "param": None, "line": None}
    write_report(folder, json.dumps(report).encode())
    return 0


def check_scripts(criteria: Sequence[Criterion]) -> dict[str, object]:
    """Return a report with the first fault found in a script (`fault`; None if there is none) and the script's field
    (`param`)."""
    for number, criterion in enumerate(criteria):
        for path, fault in criterion.faults().items():
            return {"fault": fault, "param": f"testing_criteria.{number}.{path}"}
    return {"fault": None}


def check_rows(request: Request, rows: Path) -> dict[str, object]:
    """Return a report with the number of rows or, if a row is invalid, the first fault found and its line."""
    valid, count = validator(request.item_schema), 0
    with rows.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            count += 1
            try:
                row = EvalRow.model_validate_json(line)
            except ValidationError as error:
                return {"fault": _problem(error), "line": number}
            fault = problem(valid, row.item)
            if fault is None and request.needs_answers and row.answer is None:
                fault = (
                    "sample.output_text: Field required, because the eval has include_sample_schema. "
                    "Give a model to have the items answered"
                )
            if fault is not None:
                return {"fault": fault, "line": number}
    return {"fault": None, "rows": count}


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] in ("json_invalid", "model_type"):
        return "not a JSON object"
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {'Unknown field' if first['type'] == 'extra_forbidden' else first['msg']}"[:MAX_MESSAGE]


def run_graders(criteria: Sequence[Criterion], request: Request) -> dict[str, object]:
    """Return a report with each criterion's reward. `code` is None, or the reason why the criterion cannot grade the
    answer."""
    case = Case(request.text or "", request.item, request.tools)
    questions = [question for criterion in criteria for question in criterion.questions(case)]
    verdicts, grades = similarity_verdicts(request.embedding_model, questions), []
    for criterion in criteria:
        given = grade(criterion, request.text, request.item, tools=request.tools, verdicts=verdicts)
        grades.append({"reward": given.reward, "code": given.errors.first, "details": given.metadata.details})
    return {"fault": None, "grades": grades}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
