"""Graders over HTTP. The shapes are checked against OpenAI's own types."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse

from api.context import PROJECT_GRADINGS, Context
from api.infra.fair_limiter import ConcurrencyLimitExceeded
from api.services import graders
from api.settings import Settings
from tests.api.spec.graders.graders import a_check
from tests.conftest import EMBEDDED
from tests.factories import a_base_model, a_caller, a_model, a_project
from tests.outside_judge import Said, outside_judge

SETTINGS = EMBEDDED

RUN, VALIDATE = (f"/v1/fine_tuning/alpha/graders/{verb}" for verb in ("run", "validate"))
SCORE_MODEL = {
    "type": "score_model",
    "name": "s",
    "model": "strict",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}
LABEL_MODEL = SCORE_MODEL | {"type": "label_model", "labels": ["good", "bad"], "passing_labels": ["good"]}


def judged(number: int, body: dict[str, Any]) -> Said:
    """Good answers are good."""
    good = "good answer" in body["messages"][0]["content"]
    if "enum" in str(body["response_format"]):
        return Said("good" if good else "bad")
    return Said(0.9 if good else 0.1)


@pytest.fixture
def settings(settings: Settings) -> Iterator[Settings]:
    """Of an Attune whose operator has configured a judge."""
    with outside_judge(judged) as server:
        yield settings.model_copy(update={**server.settings, "judge_retry_s": 0.01, "judge_tries": 2})


def multi(**graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": " + ".join(graders)}


def error_of(answer: Any) -> tuple[int, str | None, str]:
    assert answer.json().keys() == {"error"}, answer.text
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


def test_a_grade_is_as_openais_client_expects_it(client: TestClient) -> None:
    body = {"grader": a_check(), "model_sample": "Paris", "item": {"answer": "Paris"}}
    answer = client.post(RUN, json=body).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["sub_rewards"], answer["metadata"]["name"]) == (1.0, {}, "check")
    assert len(answer["metadata"]["errors"]) == 14
    assert not any(answer["metadata"]["errors"].values())


COSINE = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "cosine",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
}


@pytest.mark.parametrize(("folder", "words"), [(None, "this server has none: use fuzzy_match"), ("x", "is missing")])
def test_cosine_without_an_embedding_model_is_refused(
    client: TestClient, served: Context, folder: str | None, words: str
) -> None:
    named = {"embedding_model": None if folder is None else served.settings.data_dir / folder}
    object.__setattr__(served, "settings", served.settings.model_copy(update=named))
    for grader, param in ((COSINE, "grader"), (multi(a=COSINE), "grader.graders.a")):
        bodies = {RUN: {"grader": grader, "model_sample": "a", "item": {}}, VALIDATE: {"grader": grader}}
        for path, body in bodies.items():
            status, found, message = error_of(client.post(path, json=body))
            assert (status, found) == (400, f"{param}.evaluation_metric")
            assert words in message


def test_the_parts_of_a_multi_grader_are_told(client: TestClient) -> None:
    grader = multi(a=a_check("eq"), b=a_check("like"))
    answer = client.post(
        RUN, json={"grader": grader, "model_sample": "It is Paris", "item": {"answer": "Paris"}}
    ).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert answer["reward"] == 1
    assert answer["sub_rewards"] == answer["metadata"]["scores"] == {"a": 0, "b": 1}


@pytest.mark.parametrize("item", [{}, {"item": None}, {"item": {}}])
def test_a_missing_variable_is_a_grade_and_no_error(client: TestClient, item: dict[str, Any]) -> None:
    answer = client.post(RUN, json={"grader": a_check(), "model_sample": "Paris", **item}).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["metadata"]["errors"]["invalid_variable_error"]) == (0, True)
    assert answer["metadata"]["details"] == ["item.answer: the row has no item.answer"]


def test_a_reward_model_is_run_in_jobs_only(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    model = a_model(served, a_project(served.database), method={"type": "reward"})
    for grader in (SCORE_MODEL | {"model": model}, multi(a=a_check(), b=SCORE_MODEL | {"model": model})):
        status, param, message = error_of(client.post(RUN, json={"grader": grader, "model_sample": "x"}))
        assert (status, param) == (400, "grader")
        assert "inside jobs only" in message
        assert client.post(VALIDATE, json={"grader": grader}).status_code == 200
    for fields in ({"sampling_params": {"seed": 1}}, {**LABEL_MODEL, "model": model}):
        status, param, message = error_of(
            client.post(VALIDATE, json={"grader": SCORE_MODEL | {"model": model} | fields})
        )
        assert (status, param) == (400, "grader.model")
        assert "reward model" in message


def test_a_judge_grades_and_its_tokens_are_counted(client: TestClient) -> None:
    grader = multi(score=SCORE_MODEL, label=LABEL_MODEL, right=a_check())
    answer = client.post(
        RUN, json={"grader": grader, "model_sample": "A good answer.", "item": {"answer": "A good answer."}}
    ).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["sub_rewards"]) == (2.9, {"score": 0.9, "label": 1, "right": 1})
    assert answer["model_grader_token_usage_per_model"] == {"strict": 50}
    assert (answer["metadata"]["token_usage"], answer["metadata"]["sampled_model_name"]) == (50, "strict-2026")
    answer = client.post(RUN, json={"grader": LABEL_MODEL, "model_sample": "Another answer."}).json()
    assert (answer["reward"], answer["metadata"]["errors"]["model_grader_parse_error"]) == (0, False)


def test_a_project_has_only_so_many_gradings_at_once(served: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    most, caller = 2 * PROJECT_GRADINGS, a_caller(served.database)

    async def main() -> list[object]:
        answered = asyncio.Event()

        async def judged(*_: object) -> None:
            await answered.wait()

        monkeypatch.setattr(graders, "_run", judged)
        grader: Any = None
        running = [asyncio.create_task(graders.run(served, caller, grader, "", {})) for _ in range(most + 1)]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        answered.set()
        return await asyncio.gather(*running, return_exceptions=True)

    ends = asyncio.run(main())
    assert [isinstance(end, ConcurrencyLimitExceeded) for end in ends] == [False] * most + [True]


def test_what_no_judge_can_answer_is_a_grade_with_a_reason(client: TestClient, served: Context) -> None:
    a_base_model(served.database)
    answer = client.post(RUN, json={"grader": SCORE_MODEL | {"model": "tiny"}, "model_sample": "x"}).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["metadata"]["errors"]["model_grader_server_error"]) == (0, True)
    assert "No sampler is running" in answer["metadata"]["errors"]["model_grader_server_error_details"]


@pytest.mark.parametrize(
    ("model", "fields", "code", "message"),
    [
        ("none", {}, "model_not_found", "`none` is neither a model that this project may use"),
        ("encoder", {}, "invalid_judge", "is a classifier"),
        ("plain", {}, "invalid_judge", "no chat template"),
        ("tiny", {"sampling_params": {"reasoning_effort": "low"}}, "invalid_judge", "reasoning_effort"),
    ],
)
def test_a_model_that_cannot_judge_is_refused_before_anything_is_asked(
    client: TestClient, served: Context, model: str, fields: dict[str, Any], code: str, message: str
) -> None:
    a_base_model(served.database)
    a_base_model(served.database, "encoder", kind="encoder")
    a_base_model(served.database, "plain", chat_template=False)
    grader = SCORE_MODEL | {"model": model} | fields
    for path, rest in ((VALIDATE, {}), (RUN, {"model_sample": "x"})):
        answer = client.post(path, json={"grader": grader, **rest})
        assert error_of(answer)[:2] == (400, "grader.model")
        assert answer.json()["error"]["code"] == code
        assert message in answer.json()["error"]["message"]


def test_another_projects_model_is_no_judge(client: TestClient, other_project: TestClient, served: Context) -> None:
    a_base_model(served.database)
    grader = SCORE_MODEL | {"model": a_model(served, a_project(served.database))}
    assert client.post(VALIDATE, json={"grader": grader}).status_code == 200
    assert other_project.post(VALIDATE, json={"grader": grader}).json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("grader", [a_check(), SCORE_MODEL, multi(a=a_check()) | {"graders": a_check(name="a")}])
def test_a_valid_grader_comes_back(client: TestClient, grader: dict[str, Any]) -> None:
    answer = client.post(VALIDATE, json={"grader": grader}).json()
    GraderValidateResponse.model_validate(answer, strict=True)
    assert grader.items() <= answer["grader"].items()


@pytest.mark.parametrize(
    ("grader", "param", "message"),
    [
        ({"type": "magic"}, "grader.type", "magic"),
        ({"name": "x"}, "grader.type", "type"),
        (multi(a={"type": "magic"}), "grader.graders.a.type", "magic"),
        ("text", "grader", ""),
        (a_check("contains"), "grader.operation", "ilike"),
        (a_check(input="{{ nothing }}"), "grader.input", "is not a variable"),
        (a_check(threshold=1), "grader.threshold", "Unknown field"),
        ({"type": "string_check", "name": "x"}, "grader.input", "required"),
        ({"type": "python", "name": "p"}, "grader.source", "required"),
        ({"type": "python", "source": "x", "image_tag": "2030-01-01"}, "grader.image_tag", "omit image_tag"),
        (multi(a=a_check(reference="{{")), "grader.graders.a.reference", "not closed"),
        (multi(a=a_check()) | {"calculate_output": "a + c"}, "grader.calculate_output", "'c' is not the name"),
        (multi(max=a_check()), "grader.graders", "cannot be used in calculate_output"),
        (SCORE_MODEL | {"range": [2, 1]}, "grader.range", "must be increasing"),
        (LABEL_MODEL | {"passing_labels": ["nice"]}, "grader", "is not one of labels"),
        (SCORE_MODEL | {"input": [{"role": "user", "content": ["{{ x }}"]}]}, "grader.input.0.content.0", "{{ item"),
    ],
)
def test_a_mistake_names_its_field(client: TestClient, grader: Any, param: str, message: str) -> None:
    for path, rest in ((VALIDATE, {}), (RUN, {"model_sample": "x"})):
        status, named, said = error_of(client.post(path, json={"grader": grader, **rest}))
        assert (status, named) == (400, param), said
        assert message in said


def script(*lines: str) -> dict[str, Any]:
    return {"type": "python", "source": "def grade(sample, item):\n" + "\n".join(f"    {line}" for line in lines)}


def test_a_script_grades_and_its_errors_are_grades(client: TestClient) -> None:
    grader = multi(a=script("return len(sample['output_text']) / item['most']"), b=a_check())
    answer = client.post(
        RUN, json={"grader": grader, "model_sample": "four", "item": {"most": 8, "answer": "4"}}
    ).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["sub_rewards"]) == (0.5, {"a": 0.5, "b": 0})
    answer = client.post(RUN, json={"grader": script("x = 1", "return x / 0"), "model_sample": "x"}).json()
    GraderRunResponse.model_validate(answer, strict=True)
    assert (answer["reward"], answer["metadata"]["errors"]["python_grader_runtime_error"]) == (0, True)
    assert answer["metadata"]["details"] == ["line 3: ZeroDivisionError: division by zero"]


def test_what_a_script_lacks_is_named_when_it_is_validated(client: TestClient) -> None:
    answer = client.post(VALIDATE, json={"grader": script("import re", "return 1.0") | {"name": "p"}}).json()
    GraderValidateResponse.model_validate(answer, strict=True)
    grader = multi(a=a_check(), b=script("import numpy", "return 1.0"))
    status, param, message = error_of(client.post(VALIDATE, json={"grader": grader}))
    assert (status, param) == (400, "grader.graders.b.source")
    assert "line 2" in message
    assert "numpy" in message


@pytest.mark.parametrize(
    ("rest", "param"), [({}, "model_sample"), ({"model_sample": 1}, "model_sample"), ({"item": 1}, "item")]
)
def test_a_sample_is_a_text_and_an_item_an_object(client: TestClient, rest: dict[str, Any], param: str) -> None:
    body = {"grader": a_check(), **({"model_sample": "x"} if "item" in rest else {}), **rest}
    assert error_of(client.post(RUN, json=body))[:2] == (400, param)


def test_what_json_can_hold_and_text_cannot_is_answered(client: TestClient) -> None:
    hostile = '{"grader": %s, "model_sample": "x", "item": {"answer": "\\ud800", "deep": %s}}'
    check = str(a_check(input="{{item.deep}}")).replace("'", '"')
    headers = {"content-type": "application/json"}
    answer = client.post(RUN, content=hostile % (check, "[" * 400 + "]" * 400), headers=headers)
    assert answer.status_code in (200, 400)


def test_a_job_takes_the_same_graders(client: TestClient) -> None:
    method = {"type": "reinforcement", "reinforcement": {"grader": a_check("contains")}}
    body = {"model": "tiny", "training_file": "file-1", "method": method}
    status, param, _ = error_of(client.post("/v1/fine_tuning/jobs", json=body))
    assert (status, param) == (400, "method.reinforcement.grader.operation")


BROKEN = {
    "def grade(sample, item):\n    return (": "line 2: ",
    "x = 1": "the script has to define a function grade(sample, item)",
    "import numpy\ndef grade(sample, item):\n    return 1.0": "line 1: not available in the sandbox: ",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_job_with_a_broken_script_is_refused_at_its_creation(client: TestClient, source: str) -> None:
    method = {"type": "reinforcement", "reinforcement": {"grader": multi(a={"type": "python", "source": source})}}
    body = {"model": "tiny", "training_file": "file-1", "method": method}
    status, param, message = error_of(client.post("/v1/fine_tuning/jobs", json=body))
    assert (status, param) == (400, "method.reinforcement.grader.graders.a.source")
    assert message.startswith(f"{param}: {BROKEN[source]}")


def test_a_stage_with_a_broken_script_is_refused_at_its_creation(client: TestClient) -> None:
    method = {"type": "reinforcement", "reinforcement": {"grader": {"type": "python", "source": "x = 1"}}}
    stage = {"name": "first", "training_file": "file-1", "method": method}
    answer = client.post("/v1/fine_tuning/pipelines", json={"model": "tiny", "stages": [stage]})
    assert error_of(answer)[:2] == (400, "stages.0.method.reinforcement.grader.source")
