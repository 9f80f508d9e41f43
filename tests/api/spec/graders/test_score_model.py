import math

import pytest
from pydantic import ValidationError

from api.spec.graders import Case, Question, Verdict
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
    (question,) = a_grader(**GRADER).questions(Case("Because.", {"question": "Why?"}))
    assert (question.model, question.messages) == ("ft:reward", RENDERED)
    assert graded(GRADER, "Because.", verdict=Verdict(3.5), question="Why?").reward == 3.5


def test_what_a_batch_has_to_score_is_known_before_it_is_graded() -> None:
    both = {"type": "multi", "graders": {"kind": GRADER, "right": a_check()}, "calculate_output": "kind + right"}
    grader, case = a_grader(**both), Case("Because.", {"question": "Why?", "answer": "x"})
    assert grader.needs_model
    assert grader.questions(case) == [Question("ft:reward", RENDERED)]
    assert not a_grader(**a_check()).needs_model
    assert a_grader(**GRADER).questions(Case("Because.", {})) == []


@pytest.mark.parametrize(("score", "reward"), [(-9.0, -1), (0.5, 0.5), (9.0, 2)])
def test_a_range_holds_the_score(score: float, reward: float) -> None:
    assert graded({**GRADER, "range": [-1, 2]}, "x", verdict=Verdict(score), question="").reward == reward


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_model_that_gives_no_number_costs_the_reward(score: float) -> None:
    grade = graded(GRADER, "x", verdict=Verdict(score), question="")
    assert (grade.reward, flags(grade)) == (0, {"model_grader_server_error"})
    assert "ft:reward" in str(grade.errors.model_grader_server_error_details)


def test_a_question_without_a_verdict_costs_the_reward_and_names_the_reason() -> None:
    refused = Verdict(flag="model_grader_refusal_error", message="ft:reward refused to judge the answer")
    grade = graded(GRADER, "x", verdict=refused, question="")
    assert (grade.reward, flags(grade)) == (0, {"model_grader_refusal_error"})
    assert grade.metadata.details == ("ft:reward refused to judge the answer",)


def test_the_tokens_of_a_chat_model_are_counted_once_for_each_question() -> None:
    both = {"type": "multi", "graders": {"a": GRADER, "b": {**GRADER, "range": [0, 2]}}, "calculate_output": "a + b"}
    verdict = Verdict(0.5, model="gpt-9-0101", prompt_tokens=30, completion_tokens=12)
    grade = graded(both, "x", verdict=verdict, question="")
    assert (grade.reward, grade.tokens_by_model) == (1.0, {"ft:reward": 84})
    assert (grade.metadata.token_usage, grade.metadata.sampled_model_name) == (84, "gpt-9-0101")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sampling_params": {"temperature": 3}}, "temperature"),
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
