"""Models that are tried out through the unmodified client: before and after a job, whole and streamed."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from openai import OpenAI
from openai.types.chat import ChatCompletion
from peft import PeftModel
from pydantic import BaseModel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from api.services import base_models
from api.settings import Settings
from tests.conftest import opened
from tests.end_to_end.jobs import adapter_files, client_of, create, ended, rows, upload, wait_until
from tests.services import AttuneUp
from worker.convert import convert
from worker.sampling.token_bytes import TokenBytes

HELLO: list[Any] = [{"role": "user", "content": "abcd efgh"}]
PROMPT = "<turn>user\nabcd efgh</turn>\n<turn>assistant\n"
LONG: dict[str, Any] = {"model": "long", "messages": HELLO, "n": 16, "seed": 1}
"""Takes seconds: some of the answers have a thousand tokens."""


@pytest.fixture(scope="module")
def long_base(live_server: AttuneUp, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The model `long`: `tiny`, with room for long answers."""
    folder = tmp_path_factory.mktemp("long")
    shutil.copytree(tiny_model, folder / "model")
    config = folder / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 8192}))
    convert(str(folder / "model"), folder / "base")
    with opened(Settings(data_dir=live_server.data)) as context:
        base_models.register(context, "long", folder / "base")


def strict(server: AttuneUp) -> OpenAI:
    return OpenAI(
        base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=120, _strict_response_validation=True
    )


@torch.no_grad()
def require_greedy(base: Path, adapter: Path | None, answer: ChatCompletion) -> None:
    """Each token is the likeliest to transformers and peft, or as likely within the rounding of bfloat16."""
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    bytes_of = TokenBytes(tokenizer)
    numbers = {bytes_of.of(number): number for number in reversed(range(tokenizer.get_vocab_size()))}
    choice = answer.choices[0]
    assert choice.logprobs is not None
    said = [numbers[bytes(token.bytes or [])] for token in choice.logprobs.content or []]
    assert said
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    logits_T_V = model.eval()(torch.tensor([[*prompt, *said]])).logits[0, len(prompt) - 1 : -1]
    best_T = logits_T_V.max(-1).values
    said_T = logits_T_V.gather(-1, torch.tensor(said)[:, None])[:, 0]
    assert (best_T - said_T <= 0.03 * logits_T_V.abs().max(-1).values).all(), (best_T - said_T, best_T)


def test_a_base_and_its_tuned_model_each_give_their_own_answer(
    live_server: AttuneUp, tiny_base: Path, tmp_path: Path
) -> None:
    client = strict(live_server)
    job_id = create(client, upload(client, rows(12)), steps=12, training={"learning_rate": 0.05})
    model = ended(client, job_id).fine_tuned_model
    for name, content in adapter_files(client, job_id).items():
        (tmp_path / name).write_bytes(content)
    said = {}
    for name, adapter in (("tiny", None), (model, tmp_path), ("tiny", None)):
        answer = client.chat.completions.create(
            model=name, messages=HELLO, max_completion_tokens=20, temperature=0, logprobs=True
        )
        said[name] = answer.choices[0].message.content
        require_greedy(tiny_base, adapter, answer)
    assert said["tiny"] != said[model]
    stream = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == said[model]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == len(re.sub("</?turn>", ".", PROMPT)), "a token for each byte and mark"


def test_a_text_is_continued_whole_and_in_pieces(live_server: AttuneUp) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": ["abc", "def"], "max_tokens": 8, "seed": 5, "logprobs": 2}
    whole = strict(live_server).completions.create(**asked)
    # OpenAI's own pieces have no finish_reason either, which its strict client takes for an error.
    pieces = list(client_of(live_server).completions.create(**asked, stream=True))
    for choice in whole.choices:
        mine = [piece.choices[0] for piece in pieces if piece.choices[0].index == choice.index]
        assert "".join(piece.text for piece in mine) == choice.text
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == [
            logprob for piece in mine if piece.logprobs for logprob in piece.logprobs.token_logprobs or []
        ]
        assert mine[-1].finish_reason == choice.finish_reason


class Verdict(BaseModel):
    good: bool


def test_an_answer_is_parsed_as_the_clients_model(live_server: AttuneUp) -> None:
    answer = strict(live_server).chat.completions.parse(
        model="tiny", messages=HELLO, response_format=Verdict, max_completion_tokens=90, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Verdict)


def test_tools_need_a_template_that_has_a_place_for_them(live_server: AttuneUp) -> None:
    with pytest.raises(openai.BadRequestError, match="has no place for tools"):
        strict(live_server).chat.completions.create(
            model="tiny", messages=HELLO, tools=[openai.pydantic_function_tool(Verdict)]
        )


@pytest.mark.usefixtures("long_base")
def test_a_killed_child_costs_its_answer_and_no_other(live_server: AttuneUp) -> None:
    client = strict(live_server)
    stream = client.chat.completions.create(**LONG, stream=True)
    next(stream)
    _kill(live_server.pid_of("worker.sample"))
    with pytest.raises(openai.APIError, match="retry"):
        list(stream)
    assert client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3).choices


@pytest.mark.usefixtures("long_base")
def test_a_killed_sampler_is_told_within_seconds_and_comes_back(live_server: AttuneUp) -> None:
    client = strict(live_server)
    stream = client.chat.completions.create(**LONG, stream=True)
    next(stream)
    _kill(live_server.pid_of("worker", "sample"))
    with pytest.raises(openai.APIError, match="retry"):
        list(stream)
    patient = client.with_options(max_retries=5)
    assert patient.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3).choices


@pytest.mark.usefixtures("long_base")
def test_several_are_answered_at_once_and_a_client_that_leaves_ends_the_work_for_it(live_server: AttuneUp) -> None:
    client = strict(live_server)
    streams = [client.chat.completions.create(**LONG, stream=True) for _ in range(3)]
    for stream in streams:
        next(stream)
    log = live_server.data / "logs" / "worker-sample.log"
    before = log.read_text().count('"outcome": "cancelled"')
    for stream in streams:
        stream.close()
    wait_until(lambda: log.read_text().count('"outcome": "cancelled"') == before + len(streams), timeout_s=30)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
