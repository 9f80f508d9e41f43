"""A sampler whose answers come from a vLLM server."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError, Unavailable
from api.services import sampling
from api.settings import Settings
from api.spec.sampling import ModelFiles, SamplerJob, SamplingRequest
from tests.end_to_end.jobs import wait_until
from tests.factories import a_base_model, a_caller, a_model
from tests.worker.supervisor.vllm_stand_in import KEY, Vllm, chunk, vllm_stand_in
from worker.shared.reports import TextReport
from worker.supervisor import vllm_adapters, vllm_server
from worker.supervisor.sample import Sampler
from worker.supervisor.vllm_adapters import VllmAdapters
from worker.supervisor.vllm_server import VllmServer
from worker.supervisor.vllm_stream import AnswerReader, Served

LORA = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "bias": "none"}).encode(),
    "adapter_model.safetensors": b"w",
}
OPTIONS: dict[str, Any] = {"max_tokens": 5, "temperature": 0, "top_p": 1}
ASK = SamplingRequest(messages=[{"role": "user", "content": "Hi"}], **OPTIONS)


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    with vllm_stand_in() as server:
        yield server


@pytest.fixture
def opened(tmp_path: Path, sqlite_url: str, valkey_url: str, vllm: Vllm) -> Iterator[Context]:
    """A data folder with the base model `tiny`, which the server calls `served`, and a sampler on it."""
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        broker_url=valkey_url,
        fork_server=False,
        sample_vllm_url=vllm.url,
        sample_vllm_models="tiny=served",
        sample_vllm_api_key=KEY,
    )
    context = Context.open(settings)
    a_base_model(context.database, end_tokens=[2])
    (folder := tmp_path / "sampler").mkdir()
    sampler = Sampler(settings, context.storage, folder)
    thread = threading.Thread(target=sampler.run)
    thread.start()
    wait_until(lambda: not sampler._away, timeout_s=20)
    sampler._queue.beat()
    yield context
    sampler.stopping.set()
    thread.join()
    assert not vllm.adapters, "its adapters are unloaded"
    context.database.dispose()


@pytest.fixture
def caller(opened: Context) -> Caller:
    return a_caller(opened.database)


def ask(context: Context, caller: Caller, model: str = "tiny", request: SamplingRequest = ASK) -> list[Any]:
    async def main() -> list[Any]:
        async with sampling.sample(context, caller, model, request, answer_id="chatcmpl-test") as answer:
            assert answer.prompt_tokens == 7
            return [report async for report in answer.reports]

    return asyncio.run(main())


def texts(reports: list[Any]) -> str:
    return "".join(report["text"] for report in reports if report["type"] == "text")


def test_a_base_model_is_answered_by_the_server(opened: Context, caller: Caller, vllm: Vllm) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [*(ASK.messages or []), {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "1"}]
    asked = ASK.model_copy(update={"messages": messages, "thinking": False, "tools": [], "stop": ["x"], "seed": 3})
    asked = SamplingRequest.model_validate(asked.model_dump() | {"tools": [tool]})
    reports = ask(opened, caller, request=asked)
    assert texts(reports) == "Hello\u2028"
    assert reports[-1] == {
        "type": "finished", "id": "chatcmpl-test", "index": 0, "reason": "stop", "tokens": 3, "reasoning_tokens": 0
    }  # fmt: skip
    body = vllm.asked[0]
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert (body["tools"], body["tool_choice"]) == ([tool], "auto")
    assert (body["model"], body["seed"], body["stop"], body["max_tokens"]) == ("served", 3, ["x"], 5)
    assert body["stop_token_ids"] == [2]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_reasoning_calls_and_logprobs_are_passed_on(opened: Context, caller: Caller, vllm: Vllm) -> None:
    likely = {"token": "é", "logprob": -0.5, "bytes": None}
    logprobs = {"content": [{**likely, "top_logprobs": [likely]}]}
    begun = {"index": 0, "id": "call_a", "function": {"name": "f", "arguments": ""}}
    parts = [begun, {"index": 0, "function": {"arguments": '{"a": '}}, {"index": 0, "function": {"arguments": "1}"}}]
    vllm.chunks = [
        chunk(0, role="assistant"),
        chunk(2, reasoning="Hm"),
        chunk(3, reasoning_content="m"),
        chunk(4, content="é", logprobs=logprobs),
        *(chunk(5 + number, tool_calls=[part]) for number, part in enumerate(parts)),
        chunk(8, finish_reason="stop"),
    ]
    reports = ask(opened, caller, request=ASK.model_copy(update={"top_logprobs": 1}))
    assert [report["text"] for report in reports if report["type"] == "reasoning"] == ["Hm", "m"]
    token = next(report["tokens"][0] for report in reports if report["type"] == "text")
    assert (token["logprob"], token["bytes"], token["top"][0]["token"]) == (-0.5, [195, 169], "é")
    assert [(r["name"], r["arguments"]) for r in reports if r["type"] == "tool_call"] == [("f", '{"a": 1}')]
    assert (reports[-1]["reason"], reports[-1]["tokens"]) == ("tool_calls", 8)


def test_logprobs_of_text_that_the_server_holds_back_come_with_the_text() -> None:
    def piece(tokens: list[str], text: str, finish_reason: str | None = None) -> bytes:
        content = [{"token": token, "logprob": -0.5, "bytes": None} for token in tokens]
        return json.dumps(chunk(1, 0, finish_reason, content=text, logprobs={"content": content})).encode()

    reader = AnswerReader(SamplerJob(id="a", base="", messages=ASK.messages, top_logprobs=0, **OPTIONS))
    pieces = [piece(["Hel"], ""), piece(["lo"], "Hell"), piece(["!"], ""), piece(["<end>"], "o!", "stop")]
    reports = [report for each in pieces for report in reader.read(each) if isinstance(report, TextReport)]
    found = [(report.text, [token.token for token in report.tokens or ()]) for report in reports]
    assert found == [("Hell", ["Hel", "lo"]), ("o!", ["!"])]


def test_an_adapter_is_handed_over_once_and_again_after_a_restart(opened: Context, caller: Caller, vllm: Vllm) -> None:
    model = a_model(opened, caller.project_id, contents=LORA)
    for _ in range(2):
        assert texts(ask(opened, caller, model)) == "Hello\u2028"
    (name,) = vllm.adapters
    assert (vllm.loads, vllm.asked[0]["model"]) == (1, name)
    assert (vllm.adapters[name] / "adapter_model.safetensors").read_bytes() == b"w"
    vllm.adapters.clear()
    assert texts(ask(opened, caller, model)) == "Hello\u2028"
    assert (vllm.loads, list(vllm.adapters)) == (2, [name])


def test_an_adapter_whose_loading_was_not_waited_for_is_used(opened: Context, caller: Caller, vllm: Vllm) -> None:
    model = a_model(opened, caller.project_id, contents=LORA)
    vllm.hangs_up = True
    with pytest.raises(Unavailable):
        ask(opened, caller, model)
    vllm.hangs_up = False
    assert texts(ask(opened, caller, model)) == "Hello\u2028"
    assert (vllm.loads, len(vllm.adapters)) == (2, 1)


def test_a_slow_loading_stops_no_other_adapter(tmp_path: Path) -> None:
    async def main() -> None:
        begun, end = asyncio.Event(), asyncio.Event()

        async def answer(asked: httpx.Request) -> httpx.Response:
            if b'"slow"' in asked.content:
                begun.set()
                await end.wait()
            return httpx.Response(200)

        adapters = VllmAdapters(httpx.AsyncClient(transport=httpx.MockTransport(answer)), "http://vllm/v1")
        known = await adapters.load("known", tmp_path)
        slow = asyncio.create_task(adapters.load("slow", tmp_path))
        await begun.wait()
        async with asyncio.timeout(5):
            assert await adapters.load("known", tmp_path) == known
            assert await adapters.load("new", tmp_path) == known + 1
        end.set()
        assert await slow == known + 2

    asyncio.run(main())


def test_an_adapter_that_the_server_keeps_disturbs_no_other(
    opened: Context, caller: Caller, vllm: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "MAX_ADAPTERS", 1)
    models = [
        a_model(opened, caller.project_id, contents={**LORA, "adapter_model.safetensors": weights})
        for weights in (b"a", b"b")
    ]
    vllm.keeps = True
    for model in (*models, *models):
        assert texts(ask(opened, caller, model)) == "Hello\u2028"
    assert vllm.loads == 2
    vllm.keeps = False


def test_an_adapter_that_the_server_cannot_load_is_an_error_in_words(opened: Context, caller: Caller) -> None:
    model = a_model(opened, caller.project_id, contents={"adapter_config.json": LORA["adapter_config.json"]})
    with pytest.raises(ServiceError, match="vLLM server could not load the model"):
        ask(opened, caller, model)


def test_what_the_server_refuses_is_refused_with_its_reason(opened: Context, caller: Caller, vllm: Vllm) -> None:
    vllm.status = 400
    with pytest.raises(InvalidRequest, match="maximum context length is 8 tokens") as refused:
        ask(opened, caller)
    assert refused.value.param == "messages"


def test_an_answer_ends_where_the_context_of_the_server_ends(opened: Context, caller: Caller, vllm: Vllm) -> None:
    vllm.context = 10
    assert texts(ask(opened, caller)) == "Hello\u2028"
    assert [body["max_tokens"] for body in vllm.asked] == [5, 3]
    vllm.context = 7
    with pytest.raises(InvalidRequest, match="maximum context length"):
        ask(opened, caller)


@pytest.mark.parametrize("trouble", ["status", "broken off"])
def test_an_answer_that_breaks_off_is_lost(opened: Context, caller: Caller, vllm: Vllm, trouble: str) -> None:
    vllm.status = 500 if trouble == "status" else 200
    vllm.chunks = vllm.chunks[:-1]
    with pytest.raises(Unavailable) as lost:
        ask(opened, caller)
    assert lost.value.code == "sampler_lost"


def test_a_client_that_goes_away_ends_the_request_at_the_server(opened: Context, caller: Caller, vllm: Vllm) -> None:
    vllm.endless, vllm.chunks = True, vllm.chunks[:-1]

    async def leave_early() -> None:
        async with sampling.sample(opened, caller, "tiny", ASK, answer_id="chatcmpl-test") as answer:
            await anext(answer.reports)

    asyncio.run(leave_early())
    assert vllm.gone.wait(20)


@pytest.mark.parametrize(
    ("config", "ask_for", "served"),
    [
        ({"peft_type": "LORA", "bias": "none"}, {}, True),
        ({"peft_type": "PREFIX_TUNING"}, {}, False),
        ({"peft_type": "LORA", "use_dora": True}, {}, False),
        ({"peft_type": "LORA", "rank_pattern": {"q": 2}}, {}, False),
        (None, {"prompts": ["a"]}, True),
        (None, {"prompts": ["a", "b"]}, False),
        (None, {"prompts": ["a"], "echo": True}, False),
        (None, {"prompts": ["a"], "top_logprobs": 0}, False),
        (None, {"prompts": ["a"], "n": 2}, False),
        (None, {"prompts": ["a"], "n": 2, "temperature": 0.5}, True),
    ],
)
def test_the_sampler_itself_answers_what_the_server_cannot(
    tmp_path: Path, config: dict[str, Any] | None, ask_for: dict[str, Any], served: bool
) -> None:
    server = VllmServer(Settings(data_dir=tmp_path, sample_vllm_url="http://127.0.0.1:1", sample_vllm_models="tiny"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    model = {} if config is None else {"adapter": str(tmp_path), "technique": {"type": "lora"}}
    asked = {"messages": ASK.messages} | ask_for if config is not None else ask_for
    job = SamplerJob.model_validate({"id": "a", "base": "", **OPTIONS, **model, **asked})
    files: ModelFiles = {"digest": "d", "artifacts": []}
    found = server.model_of({**files, "name": "tiny", "end_tokens": [2]}, job)
    assert found == (Served("tiny", [2]) if served else None)
    assert server.model_of({**files, "name": "other"}, job) is None
    assert server.model_of(files, job) is None, "a whole model"
    server.close()


def test_no_sampler_is_there_while_its_server_is_away(
    opened: Context, caller: Caller, vllm: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "CHECK_S", 0.0)
    vllm.away = True
    wait_until(lambda: refused(opened, caller), timeout_s=40)
    vllm.away = False
    wait_until(lambda: not refused(opened, caller), timeout_s=40)


def refused(context: Context, caller: Caller) -> bool:
    try:
        ask(context, caller)
    except sampling.NoSamplerAvailable:
        return True
    except ServiceError:
        return False
    return False
