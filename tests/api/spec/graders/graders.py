"""Graders and grades for the tests of this folder."""

from typing import Any

from pydantic import TypeAdapter

from api.spec.graders import Case, Grade, Grader, GraderBase, Verdict, grade

ADAPTER: TypeAdapter[Any] = TypeAdapter(Grader)


def a_grader(**fields: Any) -> GraderBase:
    grader: GraderBase = ADAPTER.validate_python({"name": "g", **fields})
    return grader


def a_check(operation: str = "eq", **fields: Any) -> dict[str, Any]:
    texts = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    return {"type": "string_check", "name": "check", "operation": operation, **texts, **fields}


def graded(grader: dict[str, Any], text: str, *, verdict: Verdict | None = None, **item: Any) -> Grade:
    """The grade of an answer, if each of the grader's questions gets this verdict."""
    parsed = a_grader(**grader)
    answers = {question.key: verdict for question in parsed.questions(Case(text, item)) if verdict is not None}
    return grade(parsed, text, item, verdicts=answers)


def flags(grade: Grade) -> set[str]:
    return {name for name, raised in vars(grade.errors).items() if raised is True}
