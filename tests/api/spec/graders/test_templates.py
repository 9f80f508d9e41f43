import json
import time
from typing import Any

import pytest

from api.spec.graders import Case
from api.spec.graders.templates import MAX_RENDERED, MAX_TEMPLATE, MAX_VARIABLES
from tests.api.spec.graders.graders import a_check, a_grader, flags, graded

ITEM: dict[str, Any] = {
    "answer": "Paris",
    "a": {"b": [{"c": 7}, "ä"]},
    "none": None,
    "yes": True,
    "key-1": "k",
    "over": "{{item.a}}",
}


def filled(template: str, text: str = "") -> str:
    """The template's text, in a question."""
    grader = a_grader(type="score_model", model="m", input=[{"role": "user", "content": template}])
    (question,) = grader.questions(Case(text, ITEM))
    return question.messages[0]["content"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no variable, { } and }}", "no variable, { } and }}"),
        ("{{item.answer}}, {{ item.answer }}", "Paris, Paris"),
        ("{{item.a.b[0].c}}", "7"),
        ("{{item.a.b[1]}}", "ä"),
        ("{{item.a.b}}", '[{"c": 7}, "ä"]'),
        ("{{item.none}} {{item.yes}}", "null true"),
        ("{{item.key-1}}", "k"),
        ("{{{item.answer}}}", "{Paris}"),
        ("{{item.over}}", "{{item.a}}"),
    ],
)
def test_a_variable_is_replaced_by_its_value(template: str, text: str) -> None:
    assert filled(template) == text


def test_the_answer_is_there_as_text_and_as_json() -> None:
    answer = '{"city": {"name": "Paris"}, "n": [1, 2]}'
    assert filled("{{sample.output_text}}", answer) == answer
    assert filled("{{sample.output_json.city.name}} {{sample.output_json.n[1]}}", answer) == "Paris 2"
    assert json.loads(filled("{{ sample.output_json }}", answer)) == json.loads(answer)
    assert filled("{{ sample.choices[0].message.content }}", answer) == answer


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("item.wrong", "item.wrong"),
        ("item.a.wrong.deeper", "item.a.wrong"),
        ("item.a.b[2]", "item.a.b[2]"),
        ("item.a[0]", "item.a[0]"),
        ("item.a.b.c", "item.a.b.c"),
        ("item.answer.upper", "item.answer.upper"),
        ("item.answer.__class__", "item.answer.__class__"),
        ("item.answer[0]", "item.answer[0]"),
    ],
)
def test_a_missing_path_costs_the_reward_and_is_named(path: str, missing: str) -> None:
    grade = graded(a_check("ne", input=f"{{{{ {path} }}}}"), "x", **ITEM)
    assert (grade.reward, flags(grade)) == (0, {"invalid_variable_error"})
    assert grade.metadata.details == (f"{path}: the row has no {missing}",)


def test_an_answer_without_the_key_is_told_from_a_row_without_it() -> None:
    grade = graded(a_check(input="{{sample.output_json.city}}"), "{}", answer="Paris")
    assert grade.metadata.details == ("sample.output_json.city: the answer has no sample.output_json.city",)


@pytest.mark.parametrize("answer", ["Paris", "", '{"a":', "NaN", "[" * 100_000])
def test_an_answer_that_is_no_json_costs_the_reward(answer: str) -> None:
    grade = graded(a_check("ne", input="{{sample.output_json.city}}"), answer, answer="Paris")
    assert (grade.reward, flags(grade)) == (0, {"sample_parse_error"})


@pytest.mark.parametrize(
    "template",
    [
        "{{}}",
        "{{ }}",
        "{{item}}",
        "{{items.a}}",
        "{{item.}}",
        "{{item..a}}",
        "{{item.a b}}",
        "{{item.a[x]}}",
        "{{item.a[-1]}}",
        "{{item['a']}}",
        "{{ item.a | upper }}",
        "{{ 7 * 7 }}",
        "{{ ''.__class__ }}",
        "{{ sample.input }}",
        "{{ sample.output_text.x }}",
        "{{item.a",
        "{{{{item.a}}",
        "{{item" + ".a" * 33 + "}}",
        "{{item.a}}" * (MAX_VARIABLES + 1),
        "a" * (MAX_TEMPLATE + 1),
    ],
)
def test_what_is_no_path_is_refused_before_anything_is_graded(template: str) -> None:
    with pytest.raises(ValueError, match="input"):
        a_grader(**a_check(input=template))


def test_a_hostile_template_is_read_in_no_time() -> None:
    began = time.perf_counter()
    for template in ("{{" * 30_000, "{{item" + ".a" * 30_000 + "}}", "{{" + " " * 60_000, "{{item.a" * 8_000):
        with pytest.raises(ValueError, match="input"):
            a_grader(**a_check(input=template))
    assert time.perf_counter() - began < 1


def test_a_text_that_grows_too_long_is_not_graded() -> None:
    grade = graded(a_check(), "x" * (MAX_RENDERED + 1), answer="x")
    assert (grade.reward, flags(grade)) == (0, {"truncated_observation_error"})


def test_a_value_that_cannot_be_written_costs_the_reward() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000):
        grade = graded(a_check("ne"), "x", answer=value)
        assert (grade.reward, flags(grade)) == (0, {"other_error"})
