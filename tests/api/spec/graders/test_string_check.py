import pytest

from tests.api.spec.graders.graders import a_check, graded


@pytest.mark.parametrize(
    ("operation", "text", "answer", "reward"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("eq", "Paris ", "Paris", 0),
        ("ne", "Rome", "Paris", 1),
        ("ne", "Paris", "Paris", 0),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is paris.", "Paris", 0),
        ("like", "Par", "Paris", 0),
        ("ilike", "It is PARIS.", "paris", 1),
        ("ilike", "STRASSE", "straße", 1),
        ("ilike", "It is Rome.", "paris", 0),
    ],
)
def test_the_operations(operation: str, text: str, answer: str, reward: float) -> None:
    assert graded(a_check(operation), text, answer=answer).reward == reward


def test_a_grade_tells_what_gave_it() -> None:
    grade = graded(a_check(name="city"), "Paris", answer="Paris")
    assert (grade.metadata.name, grade.metadata.type) == ("city", "string_check")
    assert (grade.sub_rewards, grade.metadata.details, bool(grade.errors)) == ({}, (), False)
    assert grade.metadata.execution_time > 0
