"""A reward is read at one token: in training, by a grader, by PPO, and by whoever loads what was published."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from api.spec.formats import FORMATS
from api.spec.graders.score_model import ScoreModel
from api.spec.methods.ppo import Ppo
from api.spec.methods.reward import Reward
from tests.worker import template_bases
from tests.worker.parity import ours
from worker.engine.generation.rewards import RewardFunction, RewardModel
from worker.engine.generation.rollout_sampler import Answers
from worker.methods import Objective
from worker.rows.generation_ends import EndTokens
from worker.rows.row_builder import RowBuilder, load_renderer
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.arrays import Items, Rows

QUESTION = {"role": "user", "content": "Is the sky blue?"}
QUICK = ("chatml", "llama_2", "plain", "phi3", "gemma", "llama3", "gptoss", "qwen3", "cohere2", "glm4moe")
TEMPLATES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.pairs) for name in template_bases.ALL]


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Prepared:
    """Rows as prepare makes them."""

    def __init__(self, base: Path) -> None:
        self.tokens = TokenizerWrapper.load(base)
        self._renderer = load_renderer(base, self.tokens)

    def pair(self, row: dict[str, Any]) -> list[list[int]]:
        return self._of(Reward(), FORMATS["preference"].parse(row))

    def prompt(self, row: dict[str, Any]) -> list[int]:
        ppo = Ppo.model_validate({"type": "ppo", "ppo": {"reward_model": "ft:j"}})
        return self._of(ppo, FORMATS["prompts"].parse(row))[0]

    def _of(self, method: Any, example: Any) -> list[list[int]]:
        (built,), _ = RowBuilder(method, self._renderer).build(example)
        return [[int(each) for each in row.tokens] for row in self.tokens.encode(built.sequences)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_after_an_answer_are_those_of_a_row_to_learn_from(name: str, tmp_path: Path) -> None:
    base = template_bases.base(tmp_path / "base", name)
    prepared, endings = Prepared(base), EndTokens.load(base)
    chosen, _ = prepared.pair({"chosen": [QUESTION, answer("Yes it is")], "rejected": [QUESTION, answer("No")]})
    said = prepared.tokens.tokenizer.encode(" it is", add_special_tokens=False).ids
    for ending in ([], *([stop] for stop in sorted(endings.stops))):
        closed = endings.closed([*said, *ending], ended=bool(ending), chat=True)
        assert chosen[-len(closed) :] == closed
    plainly: Any = AutoTokenizer.from_pretrained(base).apply_chat_template([QUESTION, answer("Yes it is")])
    assert plainly["input_ids"] == chosen, "what the card says to send"


def test_a_text_without_a_template_ends_as_a_document_does(tmp_path: Path) -> None:
    base = template_bases.base(tmp_path / "base", "chatml")
    prepared, endings = Prepared(base), EndTokens.load(base)
    row, _ = prepared.pair({"prompt": "Is it?\n", "chosen": "Yes", "rejected": "No"})
    prompt = prepared.prompt({"prompt": "Is it?\n"})
    said = prepared.tokens.tokenizer.encode("Yes", add_special_tokens=False).ids
    assert [*prompt, *endings.closed(said, ended=False, chat=False)] == row
    assert [*prompt, *endings.closed([*said, min(endings.stops)], ended=True, chat=False)] == row


class Trained:
    """A reward model about to be published, some held-out pairs, and what the job says of them."""

    def __init__(self, base: Path, run: Path, pairs: int, seed: int) -> None:
        self.recipe = ours.settled("reward", {})
        self.objective: Objective = ours.begin(base, run, self.recipe)
        rng = np.random.default_rng(seed)
        self.prepared = Prepared(base)
        self.texts = [[" ".join(rng.choice(list("abcdefgh"), 6)) for _ in "cr"] for _ in range(pairs)]
        pairs_of_messages = [[[QUESTION, answer(text)] for text in pair] for pair in self.texts]
        rows = [self.prepared.pair({"chosen": one, "rejected": other}) for one, other in pairs_of_messages]
        self.rows: Rows = ours.rows_of(
            [(side, [0.0, *[1.0] * (len(side) - 1)]) for row in rows for side in row], width=2
        )
        self.folder = run / "judges" / "0"
        self.objective.model.model.save_pretrained(self.folder)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (self.folder / file).write_bytes((base / file).read_bytes())
        entry = {"ft:j": {"folder": "judges/0", "technique": {"type": "full"}}}
        (run / "judges.json").write_text(json.dumps(entry))
        self.run = run

    @torch.no_grad()
    def scores(self) -> list[float]:
        """[2 pairs], by the forward that trains."""
        self.objective.model.train(False)
        single = replace(self.rows, width=1, numbers=np.zeros(0, np.int64))
        batches = (batch for n in range(len(single)) for batch in self.objective.batches(single.take(np.array([n]))))
        return [float(self.objective.model.sequence_scores(batch)[0, 0]) for batch in batches]

    def judge(self, **options: Any) -> RewardFunction:
        return RewardFunction(self.run, ours.settled("supervised", {}), torch.device("cpu"), **options)

    def judged(self, judge: RewardFunction, *, ends: bool) -> list[float]:
        """What a judge says of the same answers, sampled with a last token that ended them or cut off before it."""
        endings, prompt = EndTokens.load(self.folder), self.prepared.prompt({"messages": [QUESTION]})
        texts = [text for pair in self.texts for text in pair]
        said = [tokens_T.tolist()[len(prompt) : len(tokens_T) - len(endings.chat_tail)] for tokens_T, _ in self.rows]
        said = [[*tokens, *[max(endings.stops)] * ends] for tokens in said]
        item = json.dumps({"messages": [QUESTION]}).encode()
        items = Items(np.frombuffer(item * len(texts), np.uint8), np.arange(len(texts) + 1) * len(item))
        prompts = replace(ours.rows_of([(prompt, [0.0] * len(prompt))] * len(texts)), items=items)
        arrays = [np.array(each, np.int32) for each in said]
        asked = [np.array(prompt, np.int32)] * len(texts)
        answers = Answers(prompts, asked, arrays, texts, texts, np.full(len(texts), ends))
        return judge(answers, prompts, 64).tolist()


@pytest.mark.parametrize(
    ("name", "pad"), [*((name, "<pad>") for name in QUICK), *(("chatml", pad) for pad in ("<|im_end|>", "</s>", None))]
)
def test_a_reward_is_read_where_it_was_trained(name: str, pad: str | None, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    base = template_bases.base(tmp_path / "base", name, pad=pad, weights=True)
    trained = Trained(base, tmp_path / "run", 8, seed)
    expected = trained.scores()
    grader = ScoreModel.model_validate({
        "type": "score_model", "name": "s", "model": "ft:j",
        "input": [QUESTION, {"role": "assistant", "content": "{{ sample.output_text }}"}],
    })  # fmt: skip
    by_grader = trained.judged(trained.judge(reward_model=None, grader=grader), ends=False)
    assert by_grader == pytest.approx(expected, abs=1e-4)
    accuracy = np.mean(np.diff(np.reshape(by_grader, (-1, 2)), axis=1) < 0)
    assert accuracy == pytest.approx(trained.objective.evaluate(trained.rows).others["rewards_accuracy"])

    tokenizer: Any = AutoTokenizer.from_pretrained(trained.folder)
    model = AutoModelForSequenceClassification.from_pretrained(trained.folder)
    for text, score in zip([text for pair in trained.texts for text in pair], expected, strict=True):
        inputs = tokenizer.apply_chat_template([QUESTION, answer(text)], return_tensors="pt", return_dict=True)
        assert model(**inputs).logits[0, 0].item() == pytest.approx(score, abs=1e-4)

    if name not in {"plain"}:  # whose prompt ends in a space, which is a part of the answer's first token in rows
        ppo = trained.judge(reward_model="ft:j", grader=None)
        assert trained.judged(ppo, ends=False) == pytest.approx(expected, abs=1e-4)
        assert trained.judged(ppo, ends=True) == pytest.approx(expected, abs=1e-4)


def test_an_answer_that_fills_the_window_is_still_read_at_its_ending(tmp_path: Path, seed: int) -> None:
    base = template_bases.base(tmp_path / "base", "chatml", weights=True)
    trained = Trained(base, tmp_path / "run", 1, seed)
    model = RewardModel(trained.folder, ours.settled("reward", {}).technique, trained.recipe, torch.device("cpu"))
    prompt, said = np.arange(10, dtype=np.int32), np.full(template_bases.WINDOW - 10, 7, np.int32)
    tail = EndTokens.load(base).chat_tail
    assert model._with_end(prompt, said, False, True) == [*prompt, *said[: len(said) - len(tail)], *tail]
    ended = np.append(said[:-1], tail[0])
    assert model._with_end(prompt, ended, True, True) == [*prompt, *said[: len(said) - len(tail)], *tail]
