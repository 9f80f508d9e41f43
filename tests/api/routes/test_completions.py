"""Chat and text completions over HTTP, before a scripted sampler."""

import json
from typing import Any, get_type_hints

import pytest
import structlog
from fastapi.testclient import TestClient
from openai.types import completion_create_params as completion_params
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion import Completion
from pydantic import BaseModel

from api.context import Context
from api.infra.sample_queue import SampleJob
from api.records import permissions
from api.records.base import db_now
from api.records.models import Checkpoint, Model
from api.schemas.completion_requests import ChatBody, CompletionBody
from api.spec.ids import new_id
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from tests.api.sampler import ends, finished, reasons, sampler, says, text
from tests.conftest import EMBEDDED
from tests.factories import a_base_model, a_job, a_project
from tests.services import Valkey

SETTINGS = EMBEDDED

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
NAME = "ft:tiny:attune::abcdefgh"
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
ARRAY: dict[str, Any] = {"type": "function", "function": {"name": "list", "parameters": {"type": "array"}}}
STRANGE: dict[str, Any] = {"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}}


@pytest.fixture
def tiny(served: Context) -> str:
    return a_base_model(served.database)


def a_model(served: Context, name: str = NAME, **recipe: Any) -> str:
    """A published model, made by this recipe."""
    resolved = resolve(
        Recipe.model_validate({"model": "tiny", "training_file": "file-a"} | recipe),
        job_id="ftjob-a",
        seed=0,
        max_length=8,
        train_rows=10,
        validation_rows=0,
    )
    project = a_project(served.database)
    job_id = a_job(served.database, project, JobStatus.SUCCEEDED, resolved=resolved.model_dump(mode="json"))
    files = [
        {"name": file, "bytes": 1, "sha256": "0", "key": file} for file in ("a.safetensors", "merged/b.safetensors")
    ]
    shared = {"project_id": project, "job_id": job_id, "artifacts": files, "created_at": db_now()}
    with served.database.write() as session:
        session.add(Model(id=name, base_model="tiny", **shared))
        step = {"id": new_id("ftckpt_"), "model_id": f"{name}:ckpt-step-5", "step": 5, "metrics": {}}
        session.add(Checkpoint(**step, **shared))
    return name


def refusal(answer: Any) -> tuple[int, str | None, str]:
    assert answer.json().keys() == {"error"}, answer.text
    return answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["message"]


def test_an_answer_is_as_openais_client_expects_it(client: TestClient, served: Context, tiny: str) -> None:
    with sampler(served.settings, says("Hi", " there")) as asked:
        answer = client.post(CHAT, json={"model": tiny, "messages": HELLO, "seed": 3, "stop": "x"}).json()
    completion = ChatCompletion.model_validate(answer, strict=True)
    assert completion.choices[0].message.content == "Hi there"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 3)
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 0
    assert asked[0].content["ask"] == {
        "messages": HELLO,
        "prompts": None,
        "n": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 3,
        "stop": ["x"],
        "max_tokens": served.settings.sample_max_tokens,
        "top_logprobs": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "echo": False,
        "response_format": None,
        "thinking": True,
    }


def test_a_stream_is_events_as_openais_client_reads_them(client: TestClient, served: Context, tiny: str) -> None:
    body = {"model": tiny, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    with sampler(served.settings, says("Hi", " there")):
        answer = client.post(CHAT, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, nothing = answer.text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    chunks = [ChatCompletionChunk.model_validate_json(event.removeprefix("data: "), strict=True) for event in events]
    deltas = [choice.delta.model_dump(exclude_unset=True) for chunk in chunks for choice in chunk.choices]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {"content": " there"}, {}]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8


def test_reasoning_comes_beside_the_answer(client: TestClient, served: Context, tiny: str) -> None:
    body = {"model": tiny, "messages": HELLO, "reasoning_effort": "none"}
    with sampler(served.settings, reasons("Hm.", "Hi")) as asked:
        whole = ChatCompletion.model_validate(client.post(CHAT, json=body).json(), strict=True)
        stream = client.post(CHAT, json=body | {"stream": True}).text.split("\n\n")[:-2]
        said = whole.choices[0].message.model_dump(exclude_unset=True)
        assert client.post(CHAT, json=body | {"messages": [*HELLO, said, *HELLO]}).status_code == 200
    assert (said["content"], said["reasoning_content"]) == ("Hi", "Hm.")
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2
    deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in stream]
    assert deltas == [{"role": "assistant", "content": ""}, {"reasoning_content": "Hm."}, {"content": "Hi"}, {}]
    assert asked[0].content["ask"]["thinking"] is False
    assert asked[2].content["ask"]["messages"][1]["reasoning_content"] == "Hm.", "as templates read it"


def test_a_text_is_continued(client: TestClient, served: Context, tiny: str) -> None:
    tokens = [
        {
            "token": "a",
            "bytes": [97],
            "logprob": -1.5,
            "offset": 0,
            "top": [{"token": "b", "bytes": [98], "logprob": -0.5}],
        }
    ]
    script = says()

    def with_logprobs(letter: Any) -> list[dict[str, Any]]:
        started, *rest = script(letter)
        return [started, text("a", tokens=tokens), *rest]

    with sampler(served.settings, with_logprobs) as asked:
        answer = client.post(COMPLETIONS, json={"model": tiny, "prompt": [1, 2], "logprobs": 1}).json()
    completion = Completion.model_validate(answer, strict=True)
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.model_dump(exclude_unset=True) == {
        "tokens": ["a"],
        "token_logprobs": [-1.5],
        "top_logprobs": [{"b": -0.5}],
        "text_offset": [0],
    }
    assert asked[0].content["ask"]["prompts"] == [[1, 2]]
    assert asked[0].content["ask"]["max_tokens"] == 16


def calls(letter: SampleJob) -> list[dict[str, Any]]:
    """Two calls of a function."""
    call = {"type": "tool_call", "index": 0, "name": "find", "arguments": "{}"}
    both = [call | {"number": number, "call_id": f"call0000{number}"} for number in (0, 1)]
    return [{"type": "started", "prompt_tokens": 5}, *both, finished(reason="tool_calls"), {"type": "done"}]


def test_calls_of_functions_are_parts_of_the_message(client: TestClient, served: Context, tiny: str) -> None:
    body: dict[str, Any] = {"model": tiny, "messages": HELLO, "tools": [TOOL, STRANGE], "tool_choice": "auto"}
    with sampler(served.settings, calls) as asked:
        whole = ChatCompletion.model_validate(client.post(CHAT, json=body).json(), strict=True).choices[0]
        stream = client.post(CHAT, json=body | {"stream": True}).text.split("\n\n")[:-2]
        first = whole.message.model_dump(exclude_unset=True)
        result = {"role": "tool", "tool_call_id": "call00001", "content": "3"}
        client.post(CHAT, json=body | {"messages": [*HELLO, first, result]})
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    assert [call.id for call in whole.message.tool_calls or []] == ["call00000", "call00001"]
    chunks = [ChatCompletionChunk.model_validate_json(event.removeprefix("data: "), strict=True) for event in stream]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(delta.index, delta.id) for delta in deltas] == [(0, "call00000"), (1, "call00001")]
    assert asked[0].content["ask"]["tools"][0]["function"]["name"] == "find"
    named = {"tool_choice": {"type": "function", "function": {"name": "find"}}}
    with sampler(served.settings, calls):
        assert client.post(CHAT, json=body | named).status_code == 200  # the other tool's schema does not matter
    _, said, answered = asked[2].content["ask"]["messages"]
    assert said["tool_calls"][0]["function"] == {"name": "find", "arguments": {}}, "as templates read it"
    assert answered["tool_call_id"] == "call00001"


def test_a_tuned_model_and_its_checkpoint_are_asked_for_with_their_files(
    client: TestClient, served: Context, tiny: str
) -> None:
    name = a_model(served)
    with sampler(served.settings, says("Hi")) as asked:
        for named in (name, f"{name}:ckpt-step-5"):
            assert client.post(CHAT, json={"model": named, "messages": HELLO}).status_code == 200
    for letter in asked:
        model = letter.content["model"]
        assert model["base"]["digest"] == "d"
        assert model["adapter"] is not None
        assert [file["name"] for file in model["adapter"]["artifacts"]] == ["a.safetensors"], "not the merged copy"
        assert model["technique"] is not None
        assert model["technique"]["type"] == "lora"


def test_a_model_that_writes_no_text_cannot_be_asked(client: TestClient, served: Context, tiny: str) -> None:
    a_base_model(served.database, "bert", kind="encoder")
    judge = a_model(served, method={"type": "reward"})
    for model, why in (("bert", "is an encoder"), (judge, "method reward")):
        status, param, message = refusal(client.post(CHAT, json={"model": model, "messages": HELLO}))
        assert (status, param) == (400, "model")
        assert why in message


def test_another_projects_model_does_not_exist(other_project: TestClient, served: Context, tiny: str) -> None:
    answer = other_project.post(CHAT, json={"model": a_model(served), "messages": HELLO})
    assert refusal(answer)[:2] == (404, "model")


def test_a_model_that_another_project_permits_answers(other_project: TestClient, served: Context, tiny: str) -> None:
    name = a_model(served)
    owner, other = (a_project(served.database, project) for project in ("default", "other"))
    with served.database.write() as session:
        permissions.grant(session, owner, name, other)
    with sampler(served.settings, says("Hi")):
        assert other_project.post(CHAT, json={"model": name, "messages": HELLO}).status_code == 200


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_what_was_made_from_a_whole_model_answers_with_its_weights(
    client: TestClient, other_project: TestClient, served: Context, tiny: str, technique: str
) -> None:
    whole = a_model(served, technique={"type": "full"})
    name = a_model(served, f"{NAME}2", model=whole, technique={"type": technique})
    owner, other = (a_project(served.database, project) for project in ("default", "other"))
    with served.database.write() as session:
        permissions.grant(session, owner, name, other)
    with sampler(served.settings, says("Hi")) as asked:
        assert client.post(CHAT, json={"model": name, "messages": HELLO}).status_code == 200
        theirs = other_project.post(CHAT, json={"model": name, "messages": HELLO})
    assert [file["name"] for file in asked[0].content["model"]["base"]["artifacts"]] == ["a.safetensors"]
    assert theirs.status_code == (400 if technique == "lora" else 200)  # the weights were not permitted


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_answers_are_entered_in_the_usage(
    client: TestClient, served: Context, tiny: str, stream: bool
) -> None:
    with sampler(served.settings, says("Hi", " there")):
        client.post(CHAT, json={"model": tiny, "messages": HELLO, "stream": stream})
    (line,) = client.get("/v1/usage?group_by=model").json()["data"]
    assert (line["model"], line["prompt_tokens"], line["completion_tokens"]) == (tiny, 5, 3)


def test_tokens_of_an_interrupted_answer_count_as_far_as_they_were_sent(
    client: TestClient, served: Context, tiny: str
) -> None:
    def breaks(job: SampleJob) -> list[dict[str, Any]]:
        return [{"type": "started", "prompt_tokens": 5}, text("Hi"), text(" the"), {"type": "lost"}]

    with sampler(served.settings, breaks):
        assert client.post(CHAT, json={"model": tiny, "messages": HELLO}).status_code == 503
    (line,) = client.get("/v1/usage").json()["data"]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (5, 2)


def test_without_a_sampler_the_answer_comes_at_once_and_says_why(client: TestClient, tiny: str) -> None:
    answer = client.post(CHAT, json={"model": tiny, "messages": HELLO})
    status, _, message = refusal(answer)
    assert (status, answer.headers["retry-after"]) == (503, "5")
    assert "attune worker --stage sample" in message


def test_a_full_broker_is_neither_away_nor_without_samplers(client: TestClient, tiny: str, valkey: Valkey) -> None:
    with valkey.full(), structlog.testing.capture_logs() as logs:
        answer = client.post(CHAT, json={"model": tiny, "messages": HELLO})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "The broker is full" in refusal(answer)[2]
    assert [line["event"] for line in logs if line["event"].startswith("broker_")] == ["broker_full"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("report", "status", "words"),
    [
        ({"type": "refused", "message": "no template", "param": "model", "code": "c"}, 400, "no template"),
        ({"type": "failed", "message": None, "reason": "internal_error"}, 500, "in the log as chatcmpl-"),
        ({"type": "lost"}, 503, "retry"),
        ({"type": "cancelled"}, 503, "The broker lost the request"),
    ],
)
def test_what_goes_wrong_before_the_first_token_is_the_status(
    client: TestClient, served: Context, tiny: str, stream: bool, report: dict[str, Any], status: int, words: str
) -> None:
    with sampler(served.settings, ends(**report)):
        answer = client.post(CHAT, json={"model": tiny, "messages": HELLO, "stream": stream})
    assert refusal(answer)[0] == status
    assert words in refusal(answer)[2]


def test_what_goes_wrong_in_the_middle_of_a_stream_is_its_last_event(
    client: TestClient, served: Context, tiny: str
) -> None:
    def breaks(letter: Any) -> list[dict[str, Any]]:
        return [*says("Hi")(letter)[:2], {"type": "lost"}]

    with sampler(served.settings, breaks):
        answer = client.post(CHAT, json={"model": tiny, "messages": HELLO, "stream": True})
    last = answer.text.rstrip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "sampler_lost"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools.0.type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tool_choice": "required"}, None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, None),
        ({"tools": [STRANGE], "tool_choice": "required"}, None),
        ({"tools": [ARRAY], "tool_choice": "required"}, None),
        ({"parallel_tool_calls": False}, None),
        ({"functions": [TOOL["function"]]}, "functions"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"n": 17}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"misspelt": 1}, "misspelt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x", "misspelt": 1}]}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(
    client: TestClient, tiny: str, fields: dict[str, Any], param: str | None
) -> None:
    assert refusal(client.post(CHAT, json={"model": tiny, "messages": HELLO} | fields))[:2] == (400, param)


def test_an_image_is_refused_in_words_that_fit_a_chat(client: TestClient, tiny: str) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]
    error = client.post(CHAT, json={"model": tiny, "messages": image}).json()["error"]
    assert error["message"] == "messages: message 1 has a part of type 'image_url'; only text is supported"


def test_fields_that_ask_for_nothing_are_taken(client: TestClient, served: Context, tiny: str) -> None:
    nothing: dict[str, Any] = {
        "tools": [],
        "tool_choice": None,
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "stop": None,
        "n": None,
        "store": False,
        "user": "me",
        "safety_identifier": "me",
        "prompt_cache_key": "a",
        "prompt_cache_retention": "24h",
        "verbosity": "medium",
    }
    said: dict[str, Any] = {"role": "assistant", "content": "b", "refusal": None, "tool_calls": [], "annotations": []}
    messages = [{"role": "developer", "content": [{"type": "text", "text": "a"}], "name": None}, *HELLO, said, *HELLO]
    with sampler(served.settings, says("Hi")) as asked:
        answer = client.post(CHAT, json={"model": tiny, "messages": messages} | nothing)
    assert answer.status_code == 200, answer.text
    first, _, second, _ = asked[0].content["ask"]["messages"]
    assert first == {"role": "system", "content": "a"}
    assert second == {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("body", "params"),
    [
        (ChatBody, chat_params.CompletionCreateParamsBase),
        (CompletionBody, completion_params.CompletionCreateParamsBase),
    ],
)
def test_every_field_that_openais_client_can_send_is_known(body: type[BaseModel], params: type) -> None:
    assert set(get_type_hints(params)) <= set(body.model_fields)


def test_a_prompt_is_repeated_with_its_log_probabilities(client: TestClient, served: Context, tiny: str) -> None:
    first: dict[str, Any] = {"token": "a", "bytes": [97], "logprob": None, "offset": 0, "top": None}
    script = says()

    def echoes(letter: Any) -> list[dict[str, Any]]:
        started, *rest = script(letter)
        return [started, text("a", tokens=[first]), *rest]

    body = {"model": tiny, "prompt": [1], "logprobs": 1, "echo": True, "max_tokens": 0}
    with sampler(served.settings, echoes) as asked:
        choice = client.post(COMPLETIONS, json=body).json()["choices"][0]
    assert choice["text"] == "a"
    assert (choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]) == ([None], [None])
    assert (asked[0].content["ask"]["echo"], asked[0].content["ask"]["max_tokens"]) == (True, 0)


def test_an_answer_of_no_tokens_needs_a_repeated_prompt(client: TestClient, tiny: str) -> None:
    status, _, message = refusal(client.post(COMPLETIONS, json={"model": tiny, "prompt": "a", "max_tokens": 0}))
    assert (status, "echo: true" in message) == (400, True)


def test_half_a_character_is_refused(client: TestClient, tiny: str) -> None:
    body = json.dumps({"model": tiny, "messages": [{"role": "user", "content": "\ud800"}]})
    answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert refusal(answer)[0] == 400


def test_too_many_choices_are_refused(client: TestClient, tiny: str) -> None:
    body = {"model": tiny, "prompt": ["a"] * 5, "n": 4}
    assert refusal(client.post(COMPLETIONS, json=body))[0] == 400
