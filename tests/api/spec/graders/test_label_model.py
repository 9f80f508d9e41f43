import pytest
from pydantic import ValidationError

from api.spec.graders import Case, GradingError, Question, Verdict
from api.spec.graders.judgement import conversation, parse, response_format
from tests.api.spec.graders.graders import a_grader, graded

GRADER = {
    "type": "label_model",
    "name": "tone",
    "model": "gpt-9",
    "labels": ["kind", "neutral", "rude"],
    "passing_labels": ["kind", "neutral"],
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}
NUMBER = Question("gpt-9", [{"role": "user", "content": "Rate it."}])
LABEL = Question("gpt-9", [{"role": "assistant", "content": "Hello"}], labels=("kind", "1"))


@pytest.mark.parametrize(("label", "reward"), [("kind", 1.0), ("neutral", 1.0), ("rude", 0.0)])
def test_a_passing_label_is_a_reward(label: str, reward: float) -> None:
    assert graded(GRADER, "Hello!", verdict=Verdict(label)).reward == reward


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"passing_labels": ["nice"]}, "'nice' is not one of labels"),
        ({"labels": ["kind", "kind", "neutral"]}, "must be different"),
        ({"labels": []}, "labels"),
        ({"passing_labels": []}, "passing_labels"),
        ({"range": [0, 1]}, "range"),
    ],
)
def test_labels_have_to_be_a_choice(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        a_grader(**{**GRADER, **fields})


def test_a_judge_reads_the_conversation_and_then_what_to_answer() -> None:
    (question,) = a_grader(**GRADER).questions(Case("Hello!", {}))
    (message,) = conversation(question)
    assert message["content"].startswith("Hello!\n\nAnswer with a JSON object")
    assert '"kind", "neutral", "rude"' in message["content"]
    roles = [message["role"] for message in conversation(LABEL)]
    assert roles == ["assistant", "user"]
    schema = response_format(question)["json_schema"]["schema"]
    assert schema["properties"]["result"] == {"type": "string", "enum": ["kind", "neutral", "rude"]}
    assert schema["required"] == ["steps", "result"]


@pytest.mark.parametrize(
    ("question", "text", "value"),
    [
        (NUMBER, '{"steps": [{"description": "a", "conclusion": "b"}], "result": 0.25}', 0.25),
        (NUMBER, ' {"result": 1}\n', 1.0),
        (NUMBER, '<think>\nNot {"result": 0}.\n</think>\n\n{"result": 1}', 1.0),
        (LABEL, '{"steps": [], "result": "1"}', "1"),
    ],
)
def test_a_judgement_is_parsed(question: Question, text: str, value: float | str) -> None:
    assert parse(question, text) == value


@pytest.mark.parametrize(
    ("question", "text"),
    [
        *((NUMBER, text) for text in ("", "0.5", "I think 0.5", '```json\n{"result": 1}\n```', '{"result": 1} yes')),
        *((NUMBER, f'{{"result": {result}}}') for result in ("true", '"0.5"', "1.5", "-1", "NaN", "1e999", "null")),
        (NUMBER, '{"result": 1, "more": 1}'),
        (NUMBER, '{"steps": [{"description": "a"}], "result": 1}'),
        (LABEL, '{"result": "Kind"}'),
        (LABEL, '{"result": 1}'),
    ],
)
def test_anything_else_is_no_judgement(question: Question, text: str) -> None:
    with pytest.raises(GradingError) as error:
        parse(question, text)
    assert error.value.flag == "model_grader_parse_error"


def test_a_question_is_known_by_its_content() -> None:
    again = Question("gpt-9", [{"role": "user", "content": "Rate it."}])
    others = [Question("gpt-8", NUMBER.messages), Question("gpt-9", NUMBER.messages, range=(0, 2)), LABEL]
    assert again.key == NUMBER.key
    assert len({NUMBER.key, *(question.key for question in others)}) == 4


def test_a_conversation_that_is_too_long_is_no_question() -> None:
    long = {**GRADER, "input": [{"role": "user", "content": "{{ sample.output_text }}"}] * 3}
    grade = graded(long, "x" * 40_000)
    assert grade.errors.truncated_observation_error
    assert grade.metadata.details == ("the grader's messages have 120,000 characters; the most is 100,000",)
