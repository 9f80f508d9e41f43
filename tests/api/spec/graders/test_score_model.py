import math
from typing import Any

import pytest
from pydantic import ValidationError

from api.spec.graders import Case
from tests.api.spec.graders.graders import a_check, a_grader, flags, graded

CONVERSATION = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": {"type": "input_text", "text": "{{ item.question }}"}},
    {"role": "assistant", "content": ["Well:", {"type": "output_text", "text": "{{ sample.output_text }}"}]},
]
GRADER = {"type": "score_model", "name": "kind", "model": "ft:reward", "input": CONVERSATION}
RENDERED = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Well:\nBecause."},
]


def test_the_reward_is_what_the_model_gives_for_the_conversation() -> None:
    asked = []

    def score(*question: Any) -> float:
        asked.append(question)
        return 3.5

    grade = graded(GRADER, "Because.", scores=score, question="Why?")
    assert (grade.reward, asked) == (3.5, [("ft:reward", RENDERED)])


def test_what_a_batch_has_to_score_is_known_before_it_is_graded() -> None:
    both = {"type": "multi", "graders": {"kind": GRADER, "right": a_check()}, "calculate_output": "kind + right"}
    grader, case = a_grader(**both), Case("Because.", {"question": "Why?", "answer": "x"})
    assert grader.needs_model
    assert grader.questions(case) == [("ft:reward", RENDERED)]
    assert not a_grader(**a_check()).needs_model
    assert a_grader(**GRADER).questions(Case("Because.", {})) == []


@pytest.mark.parametrize(("score", "reward"), [(-9.0, -1), (0.5, 0.5), (9.0, 2)])
def test_a_range_holds_the_score(score: float, reward: float) -> None:
    assert graded({**GRADER, "range": [-1, 2]}, "x", scores=lambda *_: score, question="").reward == reward


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_model_that_gives_no_number_costs_the_reward(score: float) -> None:
    grade = graded(GRADER, "x", scores=lambda *_: score, question="")
    assert (grade.reward, flags(grade)) == (0, {"model_grader_server_error"})
    assert "ft:reward" in str(grade.errors.model_grader_server_error_details)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling_params": {"temperature": 1}}, "samples no text"),
        ({"range": [1, 0]}, "must be increasing"),
        ({"range": [0]}, "range"),
        ({"range": [0, math.inf]}, "finite"),
        ({"input": []}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "text only"),
        ({"input": [{"role": "user", "content": "{{ nothing }}"}]}, "is not a variable"),
    ],
)
def test_what_a_reward_model_cannot_do_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        a_grader(**{**GRADER, **fields})
