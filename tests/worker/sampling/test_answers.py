"""A sampler's answers against what transformers and peft say of the same models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from api.spec.techniques.lora import Lora
from tests.tiny_models import make_model, make_tokenizer
from tests.worker.sampling.asking import CPU, PROMPT, TOKENS, Asked, make_adapter, plain, technique
from worker.sampling import bases
from worker.sampling.bases import KEPT_ADAPTERS, LoadedBase, ModelSource
from worker.sampling.generate import generate
from worker.sampling.refused import RequestRefused
from worker.sampling.token_sampler import SampledToken, TokenSampler
from worker.techniques import TECHNIQUES

ALIKE = ("lora", "dora", "ia3", "prefix", "prompt")
"""Techniques whose adapters are swapped on one base in memory."""
OF_THEIR_OWN = ("full", "bottleneck", "qlora")


@pytest.fixture(scope="module")
def tuned(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """Two models of each technique, by names like lora-1."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        f"{name}-{seed}": ModelSource(
            llama, make_adapter(llama, folder / f"{name}-{seed}", technique(name), seed), technique(name)
        )
        for name in (*ALIKE, *OF_THEIR_OWN)
        for seed in (1, 2)
    }


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


def greedy(model: Any, base: LoadedBase) -> list[list[int]]:
    """The bytes of the tokens that transformers' own greedy decoding gives."""
    found = model.generate(
        input_ids=torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=sorted(base.end_tokens),
        pad_token_id=0,
    )
    ids = found[0, len(PROMPT) :].tolist()
    return [list(base.token_bytes.of(number)) for number in ids if number not in base.end_tokens]


def by_itself(model: ModelSource, base: LoadedBase) -> list[list[int]]:
    """What it says when it is loaded alone, as its card tells."""
    kind: Any = model.technique
    if kind.type == "full":
        return greedy(plain(model.folder), base)
    network = plain(model.base, kind)
    if kind.type in TECHNIQUES:
        assert model.adapter is not None
        return greedy(TECHNIQUES[kind.type].load(network, model.adapter).eval(), base)
    return greedy(PeftModel.from_pretrained(network, str(model.adapter)).eval(), base)


def test_each_model_gives_its_own_answer_however_they_alternate(
    base: LoadedBase, llama: Path, tuned: dict[str, ModelSource]
) -> None:
    names = [f"{name}-{seed}" for seed in (1, 2) for name in ALIKE] + [
        f"{name}-{seed}" for name in ALIKE for seed in (1, 2)
    ]
    alone = {name: by_itself(tuned[name], base) for name in set(names)}
    of_base = greedy(plain(llama), base)
    assert len({str(said) for said in [of_base, *alone.values()]}) > len(ALIKE), "they differ"
    for name in names:
        assert Asked(base, tuned[name]).bytes() == alone[name], name
        assert Asked(base, ModelSource(llama)).bytes() == of_base, f"the base, after {name}"


@pytest.mark.parametrize("name", OF_THEIR_OWN)
def test_a_model_with_weights_of_its_own_gives_its_own_answer(
    name: str, base: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    one, other = tuned[f"{name}-1"], tuned[f"{name}-2"]
    assert one.base_key != ModelSource(one.base).base_key
    loaded = LoadedBase(one, CPU, torch.float32)
    assert Asked(loaded, one).bytes() == by_itself(one, base)
    if other.base_key == one.base_key:
        assert Asked(loaded, other).bytes() == by_itself(other, base)


def test_adapters_that_were_long_unused_make_room_and_come_back(llama: Path, tmp_path: Path) -> None:
    base = LoadedBase(ModelSource(llama), CPU, torch.float32)
    lora = technique("lora")
    models = [
        ModelSource(llama, make_adapter(llama, tmp_path / f"a.{n}", lora, n), lora) for n in range(KEPT_ADAPTERS + 2)
    ]
    first = Asked(base, models[0]).bytes()
    for model in models[1:]:
        Asked(base, model)
    assert Asked(base, models[0]).bytes() == first == by_itself(models[0], base)


def test_an_adapter_that_made_room_leaves_no_other_in_its_place(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on other layers: peft would then activate in each layer what is left there."""
    monkeypatch.setattr(bases, "KEPT_ADAPTERS", 2)
    base = LoadedBase(ModelSource(llama), CPU, torch.float32)
    kinds = [Lora(target_modules=[name]) for name in ("q_proj", "v_proj", "down_proj")]
    models = [
        ModelSource(llama, make_adapter(llama, tmp_path / f"a{n}", kind, n), kind) for n, kind in enumerate(kinds)
    ]
    assert Asked(base, models[0]).bytes() == by_itself(models[0], base)
    base.hold(models[1])
    base.hold(models[2])
    assert Asked(base, ModelSource(llama)).bytes() == greedy(plain(llama), base)
    for model in models:
        assert Asked(base, model).bytes() == by_itself(model, base)


def test_adapters_on_different_tensors_of_experts_take_turns(tmp_path: Path) -> None:
    mixture = make_model(tmp_path / "mixture", "qwen3_moe", seed=3)
    base = LoadedBase(ModelSource(mixture), CPU, torch.float32)
    kinds = [Lora(), Lora(target_modules=["experts.down_proj"]), Lora(target_modules=["q_proj"]), Lora(rank=4)]
    models = [
        ModelSource(mixture, make_adapter(mixture, tmp_path / f"a{n}", kind, n), kind) for n, kind in enumerate(kinds)
    ]
    for model in [*models, *models[::-1]]:
        assert Asked(base, model).bytes() == by_itself(model, base)
        assert Asked(base, ModelSource(mixture)).bytes() == greedy(plain(mixture), base)


def test_peft_does_not_describe_its_layers_at_each_token_of_the_base(
    llama: Path, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = LoadedBase(ModelSource(llama), CPU, torch.float32)
    base.hold(tuned["lora-1"])
    monkeypatch.setattr(PeftModel, "get_model_status", None)
    assert Asked(base, ModelSource(llama)).bytes() == greedy(plain(llama), base)


@torch.no_grad()
def test_logprobs_are_transformers_own_log_softmax(llama: Path) -> None:
    model, said = plain(llama), list[SampledToken]()
    draw = TokenSampler(temperature=1.5, top_p=0.9, seed=3, top_logprobs=3)

    def keep(token: SampledToken) -> bool:
        said.append(token)
        return True

    generate(model, PROMPT, draw, max_tokens=TOKENS, on_token=keep)
    logits_T_V = model(torch.tensor([[*PROMPT, *(token.id for token in said)]])).logits[0, len(PROMPT) - 1 : -1]
    for token, logprobs_V in zip(said, torch.log_softmax(logits_T_V, dim=-1), strict=True):
        assert token.logprob == pytest.approx(float(logprobs_V[token.id]), abs=1e-4)
        values, ids = logprobs_V.topk(3)
        assert [number for number, _ in token.top or ()] == ids.tolist()
        assert [logprob for _, logprob in token.top or ()] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_seed_repeats_the_answers_and_each_of_n_is_another(base: LoadedBase, llama: Path) -> None:
    one, two = (Asked(base, ModelSource(llama), temperature=1, seed=11, n=3) for _ in range(2))
    assert [one.bytes(index) for index in range(3)] == [two.bytes(index) for index in range(3)]
    assert one.bytes(0) != one.bytes(1) != one.bytes(2)


def test_an_answer_ends_at_an_end_token_or_at_its_length(base: LoadedBase, llama: Path) -> None:
    length = Asked(base, ModelSource(llama))
    assert length.end() == ("length", TOKENS)
    first = length.tokens()[2]["bytes"]
    base_ends, base.end_tokens = base.end_tokens, frozenset({_number(base, first)})
    try:
        stopped = Asked(base, ModelSource(llama))
    finally:
        base.end_tokens = base_ends
    place = length.bytes().index(first)
    assert stopped.end() == ("stop", place + 1)
    assert stopped.bytes() == length.bytes()[:place], "the token that ends it is not part of it"


def _number(base: LoadedBase, raw: list[int]) -> int:
    return next(number for number in range(base.vocabulary) if list(base.token_bytes.of(number)) == raw)


def test_a_stop_string_ends_an_answer(base: LoadedBase, llama: Path) -> None:
    asked = {"temperature": 1, "seed": 2, "max_tokens": 60}
    whole = Asked(base, ModelSource(llama), **asked).text()
    stop = whole[4:6]
    stopped = Asked(base, ModelSource(llama), stop=[stop], **asked)
    assert stopped.text() == whole[: whole.index(stop)]
    assert stopped.end()[0] == "stop"


def test_a_conversation_is_what_the_template_makes_of_it(base: LoadedBase, llama: Path) -> None:
    messages = [{"role": "user", "content": "hé"}]
    text = "<turn>user\nhé</turn>\n<turn>assistant\n"
    tokens = base.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    chat = Asked(base, ModelSource(llama), prompts=None, messages=messages)
    assert chat.bytes() == Asked(base, ModelSource(llama), prompts=[tokens]).bytes()
    assert chat.reports[0] == {"type": "started", "prompt_tokens": len(tokens)}


def test_a_text_and_its_tokens_are_continued_alike(base: LoadedBase, llama: Path) -> None:
    tokens = base.tokenizer.tokenizer.encode("abc").ids
    both = Asked(base, ModelSource(llama), prompts=["abc", tokens])
    assert both.bytes(0) == both.bytes(1)


def test_an_answer_has_no_more_tokens_than_the_window_leaves(base: LoadedBase, llama: Path) -> None:
    assert base.context_length == 128
    assert Asked(base, ModelSource(llama), prompts=[[7] * 125], max_tokens=50).end()[1] <= 3
    with pytest.raises(RequestRefused, match="maximum context length is 128 tokens, and the prompt has 128"):
        Asked(base, ModelSource(llama), prompts=[[7] * 128])


@pytest.mark.parametrize("prompts", [[""], [[300]]])
def test_what_cannot_be_continued_is_refused(base: LoadedBase, llama: Path, prompts: list[Any]) -> None:
    with pytest.raises(RequestRefused):
        Asked(base, ModelSource(llama), prompts=prompts)


def test_a_prompt_beyond_the_context_is_refused_whatever_the_family_calls_its_context(tmp_path: Path) -> None:
    config = AutoConfig.for_model("mpt", d_model=32, n_heads=4, n_layers=2, vocab_size=300, max_seq_len=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    base = LoadedBase(ModelSource(tmp_path), CPU, torch.float32)
    assert Asked(base, ModelSource(tmp_path), prompts=[[5] * 15]).end() == ("length", 1)
    with pytest.raises(RequestRefused, match="context length is 16 tokens"):
        Asked(base, ModelSource(tmp_path), prompts=[[5] * 17])
