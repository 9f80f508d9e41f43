"""Prompts that are repeated with their log-probabilities, against transformers' and peft's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter

from api.spec.techniques import Technique
from tests.worker.sampling.asking import CPU, PROMPT, Asked, make_adapter, plain
from worker.sampling import echo
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.refused import RequestRefused

TECHNIQUES: TypeAdapter[Any] = TypeAdapter(Technique)


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


def by_itself(model: Any) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT))).logits[0]
    logprobs = logits[-len(PROMPT) :].log_softmax(-1)
    return [float(row[token]) for row, token in zip(logprobs[:-1], PROMPT[1:], strict=True)]


@pytest.mark.parametrize("name", ["lora", "prefix", "prompt"])
def test_a_prompt_has_the_log_probabilities_that_the_tuned_model_gives_it(
    base: LoadedBase, llama: Path, tmp_path: Path, name: str
) -> None:
    technique = TECHNIQUES.validate_python({"type": name})
    tuned = ModelSource(llama, make_adapter(llama, tmp_path / name, technique, 1), technique)
    asked = Asked(base, tuned, echo=True, max_tokens=2)
    first, *others = asked.tokens()[: len(PROMPT)]
    assert (first["logprob"], first["top"]) == (None, None), "nothing predicts it"
    expected = by_itself(PeftModel.from_pretrained(plain(llama), str(tuned.adapter)).eval())
    assert [token["logprob"] for token in others] == pytest.approx(expected, abs=1e-5)
    assert len(asked.tokens()) == len(PROMPT) + asked.end()[1]


def test_a_prompt_alone_is_repeated_without_an_answer(base: LoadedBase, llama: Path) -> None:
    asked = Asked(base, ModelSource(llama), prompts=["Größe: 5"], echo=True, max_tokens=0)
    assert asked.text() == "Größe: 5"
    assert asked.end() == ("length", 0)
    offsets = [token["offset"] for token in asked.tokens()]
    assert (offsets[0], offsets == sorted(offsets)) == (0, True)


def test_an_answer_follows_its_prompt_and_has_its_end_token(base: LoadedBase, llama: Path) -> None:
    alone = Asked(base, ModelSource(llama), prompts=["abc"], n=3, seed=3, temperature=2, max_tokens=40)
    echoed = Asked(base, ModelSource(llama), prompts=["abc"], n=3, seed=3, temperature=2, max_tokens=40, echo=True)
    assert any(alone.end(index)[0] == "stop" for index in range(3)), "for the test's sake"
    for index in range(3):
        assert echoed.text(index) == "abc" + alone.text(index)
        assert len(echoed.tokens(index)) == len("abc") + echoed.end(index)[1]


def test_a_prompt_too_long_for_the_memory_is_refused(
    base: LoadedBase, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "MAX_LOGITS_BYTES", 4 * 300 * 4)
    with pytest.raises(RequestRefused, match="at most 4 tokens, not 5"):
        Asked(base, ModelSource(llama), echo=True)
