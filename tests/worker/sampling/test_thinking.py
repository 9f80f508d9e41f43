"""Answers with reasoning, by a tiny model with Qwen3's chat template."""

from pathlib import Path
from typing import Any

import pytest
import torch

from api.spec.sampling import SamplerJob
from tests.worker.sampling.asking import CPU, Asked
from tests.worker.templates import ALL
from worker.sampling.answer import Answer, answers_of
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.prompts import prompts_of
from worker.sampling.refused import RequestRefused
from worker.sampling.token_sampler import SampledToken
from worker.shared.reports import FinishedReport, ReasoningReport, TextReport

QUESTION = [{"role": "user", "content": "Which?"}]
EMPTY = "<think>\n\n</think>\n\n"


def load(llama: Path, template: str) -> LoadedBase:
    (llama / "chat_template.jinja").write_text(ALL[template])
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return load(llama, "qwen3")


def job(llama: Path, **fields: Any) -> SamplerJob:
    given = {"messages": QUESTION, "max_tokens": 100, "temperature": 0, "top_p": 1} | fields
    return SamplerJob(id="cmpl-test", base=str(llama), **given)


def generated(base: LoadedBase, request: SamplerJob, text: str) -> tuple[list[Any], Answer]:
    """The reports of an answer that consists of this text."""
    reports: list[Any] = []
    (answer,) = answers_of(request, base, reports.append)
    for token in base.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids:
        if not answer.add(SampledToken(token, logprob=-1.0, top=())):
            break
    answer.finish()
    return reports, answer


def joined(reports: list[Any], kind: type[Any]) -> str:
    return "".join(report.text for report in reports if isinstance(report, kind))


def test_the_empty_reasoning_of_a_tuned_model_is_no_part_of_its_answer(base: LoadedBase, llama: Path) -> None:
    reports, _ = generated(base, job(llama, stop=["\n"]), EMPTY + "Paris\nis it")
    assert (joined(reports, ReasoningReport), joined(reports, TextReport)) == ("", "Paris")
    assert reports[-1].reason == "stop"


def test_log_probabilities_and_tokens_are_counted_apart(base: LoadedBase, llama: Path) -> None:
    reports, _ = generated(base, job(llama, top_logprobs=0), "<think>\nHé\n</think>\n\n€5")
    assert (joined(reports, ReasoningReport), joined(reports, TextReport)) == ("Hé", "€5")
    tokens = [token for report in reports if isinstance(report, TextReport) for token in report.tokens or ()]
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == "€5"
    finished = next(report for report in reports if isinstance(report, FinishedReport))
    assert finished.tokens - finished.reasoning_tokens == len(tokens)


def test_a_text_that_a_model_continues_keeps_its_tags(base: LoadedBase, llama: Path) -> None:
    text = base.tokenizer.tokenizer.encode("Which?").ids
    reports, _ = generated(base, job(llama, messages=None, prompts=[text]), EMPTY + "Paris")
    assert joined(reports, TextReport) == EMPTY + "Paris"


def test_a_prompt_that_opens_the_reasoning_leaves_json_alone(llama: Path) -> None:
    opening = load(llama, "qwen3_5_think")
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes"]}}}
    reports, _ = generated(opening, job(llama), "Hm.\n</think>\n\nyes")
    assert (joined(reports, ReasoningReport), joined(reports, TextReport)) == ("Hm.", "yes")
    bound = Asked(opening, ModelSource(llama), messages=QUESTION, prompts=None, response_format=shape)
    assert bound.text() == '"yes"'


def test_a_request_may_turn_the_reasoning_off(base: LoadedBase, llama: Path) -> None:
    (free,), (off,) = (prompts_of(job(llama, thinking=thinking), base) for thinking in (True, False))
    assert base.tokenizer.tokenizer.decode(off[len(free) :], skip_special_tokens=False) == EMPTY
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    (called,) = prompts_of(job(llama, thinking=False, tools=[tool], tool_choice="required"), base)
    assert base.tokenizer.tokenizer.decode(called, skip_special_tokens=False).count("<think>") == 1


def test_a_template_without_the_switch_refuses_in_words(llama: Path) -> None:
    with pytest.raises(RequestRefused, match="cannot turn reasoning off") as refused:
        prompts_of(job(llama, thinking=False), load(llama, "qwen2_5"))
    assert refused.value.param == "reasoning_effort"
