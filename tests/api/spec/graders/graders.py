"""Graders and grades for the tests of this folder."""

from typing import Any

from pydantic import TypeAdapter

from api.spec.graders import Grade, Grader, GraderBase, Scores, grade

ADAPTER: TypeAdapter[Any] = TypeAdapter(Grader)


def a_grader(**fields: Any) -> GraderBase:
    grader: GraderBase = ADAPTER.validate_python({"name": "g", **fields})
    return grader


def a_check(operation: str = "eq", **fields: Any) -> dict[str, Any]:
    texts = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    return {"type": "string_check", "name": "check", "operation": operation, **texts, **fields}


def graded(grader: dict[str, Any], text: str, *, scores: Scores | None = None, **item: Any) -> Grade:
    return grade(a_grader(**grader), text, item, scores=scores)


def flags(grade: Grade) -> set[str]:
    return {name for name, raised in vars(grade.errors).items() if raised is True}
