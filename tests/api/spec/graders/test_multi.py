import math
import time
from typing import Any

import pytest
from pydantic import ValidationError

from tests.api.spec.graders.graders import a_check, a_grader, flags, graded

ITEM: dict[str, Any] = {"answer": "abcd"}
PARTS = {
    "right": a_check(),
    "near": a_check() | {"type": "text_similarity", "evaluation_metric": "fuzzy_match"},
}
for _part in PARTS.values():
    if _part["type"] == "text_similarity":
        del _part["operation"]


def multi(formula: str, **parts: object) -> dict[str, object]:
    return {"type": "multi", "graders": parts or PARTS, "calculate_output": formula}


@pytest.mark.parametrize(
    ("formula", "reward"),
    [
        ("0.5 * right + 0.5 * near", 0.375),
        ("near", 0.75),
        ("(near + 1) / 2", 0.875),
        ("-near + +1", 0.25),
        ("2 ^ 3 + near", 8.75),
        ("2 ** 3 ^ 0", 2),
        ("-2 ^ 2", -4),
        ("1 - 2 - 3", -4),
        ("max(right, near, 0.1)", 0.75),
        ("min(right, near)", 0),
        ("abs(-near) + sqrt(4)", 2.75),
        ("floor(near) + ceil(near)", 1),
        ("exp(log(near))", 0.75),
        ("1e-1\n + 0", 0.1),
    ],
)
def test_the_formula_is_arithmetic_over_the_parts(formula: str, reward: float) -> None:
    """Of the answer `abed` to `abcd`: right is 0, near is 2 · 3 / 8."""
    grade = graded(multi(formula), "abed", **ITEM)
    assert grade.reward == pytest.approx(reward)
    assert grade.sub_rewards == grade.metadata.scores == {"right": 0, "near": 0.75}


def test_a_single_grader_stands_under_its_own_name() -> None:
    assert graded(multi("1 - check") | {"graders": a_check()}, "abed", **ITEM).reward == 1


@pytest.mark.parametrize(
    "formula",
    [
        "",
        " ",
        "right +",
        "right; near",
        "right, near",
        "right) + (near",
        "unknown",
        "right.real",
        "right[0]",
        "right()",
        "__import__('os')",
        "().__class__.__mro__",
        "[x for x in (1,)]",
        "lambda: right",
        "right if near else 1",
        "right and near",
        "right < near",
        "right % near",
        "right // near",
        "right << 9",
        "~right",
        "not right",
        "'right'",
        "b'r'",
        "f'{right}'",
        "...",
        "True",
        "1j",
        "(x := 1)",
        "max",
        "max()",
        "max(*right)",
        "min(right, key=near)",
        "abs(1, 2)",
        "pow(2, 3)",
        "eval(1)",
        "9" * 500,
        "1e999",
        "(" * 300 + "right" + ")" * 300,
        "-" * 1000 + "1",
        "+".join(["right"] * 100),
        "2^" * 400 + "2",
        "r" * 1025,
        "\0",
        "right # near",
    ],
)
def test_what_is_no_arithmetic_is_refused(formula: str) -> None:
    with pytest.raises(ValidationError, match="calculate_output"):
        a_grader(**multi(formula))


@pytest.mark.parametrize(
    "formula", ["1 / right", "log(right)", "log(-1)", "sqrt(-1)", "(-8) ^ 0.5", "0 ^ -1", "9 ^ 9 ^ 9 ^ 9", "exp(1e9)"]
)
def test_a_formula_without_a_finite_value_costs_the_reward_at_once(formula: str) -> None:
    began = time.perf_counter()
    grade = graded(multi(formula), "abed", **ITEM)
    assert (grade.reward, flags(grade)) == (0, {"other_error"})
    assert grade.metadata.details[0].startswith("calculate_output")
    assert time.perf_counter() - began < 1


def test_infinity_between_is_no_reward_either() -> None:
    assert flags(graded(multi("1e308 * 10"), "abed", **ITEM)) == {"other_error"}


def test_an_answer_does_not_earn_from_a_part_that_could_not_grade_it() -> None:
    grade = graded(multi("1 - broken", broken=a_check(input="{{item.wrong}}"), right=a_check()), "abcd", **ITEM)
    assert (grade.reward, flags(grade)) == (0, {"invalid_variable_error"})
    assert grade.sub_rewards == {"broken": 0, "right": 1}
    assert math.isclose(grade.metadata.scores["right"], 1)


@pytest.mark.parametrize("name", ["max", "a b", "1a", "", "a.b", "é", "a" * 65])
def test_a_part_needs_a_name_that_can_stand_in_a_formula(name: str) -> None:
    with pytest.raises(ValidationError):
        a_grader(**multi("1", **{name: a_check()}))


def test_a_multi_grader_holds_no_other_and_sixteen_parts_at_most() -> None:
    with pytest.raises(ValidationError, match="multi"):
        a_grader(**multi("1", inner=multi("1")))
    with pytest.raises(ValidationError, match="16"):
        a_grader(**multi("1", **{f"g{number}": a_check() for number in range(17)}))
