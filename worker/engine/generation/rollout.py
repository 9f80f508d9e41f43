"""What the methods share that learn from their own samples: sampling, judging, evaluating, showing."""

from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from api.spec.evaluation import SHOWN_ROWS
from api.spec.methods.base import RolloutOptions
from worker.engine.generation.rewards import Judge, Rewards
from worker.engine.generation.sample_answers import GeneratedAnswer, readable
from worker.engine.generation.sampler import Answers, Sampler
from worker.engine.objective import MethodContext, Objective
from worker.rows.end_tokens import EndTokens
from worker.shared.arrays import Rows
from worker.shared.reports import RolloutSample, SamplesReport, WarningReport

SHOWN = 2
SHOWN_LETTERS = 600
LOOKS = 10
"""So many times in a training its samples are shown."""


class RolloutObjective(Objective):
    samples_answers = True
    eval_samples = 1

    def __init__(self, setting: MethodContext, *, reward_model: str | None, grader: Any) -> None:
        super().__init__(setting)
        base = setting.run / "base"
        self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        ends = EndTokens.load(base).stops
        self._sampler = Sampler(self.model, self._tokenizer, ends, pad_token=min(ends, default=0))
        self._judge = Judge(setting.run, self.recipe, self.model.device, reward_model=reward_model, grader=grader)
        self._told: set[str] = set()

    @property
    def rollout_options(self) -> RolloutOptions:
        options: RolloutOptions = self.options
        return options

    def sample(self, prompts: Rows, *, greedy: bool = False) -> Answers:
        options = self.rollout_options
        return self._sampler.sample(
            prompts,
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            budget_tokens=self.budget_tokens,
            greedy=greedy,
        )

    def judge(self, answers: Answers, prompts: Rows) -> Rewards:
        """[R], and what is worth watching of them in `observed`."""
        rewards_R = self._judge(answers, prompts, self.budget_tokens)
        lengths = [len(answer) for answer in answers.answers]
        self.observed = {
            "reward": float(rewards_R.mean()),
            "reward_std": float(rewards_R.std()),
            "answer_tokens": sum(lengths) / len(lengths),
            "ended": float(answers.ended.mean()),
        }
        for trouble in sorted(self._judge.troubles - self._told):
            self._told.add(trouble)
            message = f"The grader cannot judge an answer, which gets no reward: {trouble}"
            self.setting.say(WarningReport(message=message))
        return rewards_R

    def show(self, step: int, answers: Answers, rewards_R: Rewards) -> None:
        """Tell a few of the answers, now and then."""
        if (step - 1) % max(1, self.recipe.total_steps // LOOKS):
            return
        samples = [
            RolloutSample(
                prompt=self._tokenizer.decode(answers.prompts[row].tolist())[-SHOWN_LETTERS:],
                answer=answers.texts[row][:SHOWN_LETTERS],
                reward=float(rewards_R[row]),
            )
            for row in range(min(SHOWN, len(answers.texts)))
        ]
        self.setting.say(SamplesReport(step=step, samples=samples))

    def evaluate(self, rows: Rows) -> dict[str, float]:
        """The reward of the likeliest answer to each prompt, or of several drawn ones, always the same; the loss is its
        negative. Leaves the random numbers of the training as they were."""
        observed = dict(self.observed)
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)
            rewards = [
                float(self.judge(self.sample(rows, greedy=self.eval_samples == 1), rows).mean())
                for _ in range(self.eval_samples)
            ]
        self.observed = observed
        reward = sum(rewards) / len(rewards)
        return {"loss": -reward, "reward": reward}

    def show_answers(self, rows: Rows) -> list[GeneratedAnswer]:
        """The likeliest ones, and their rewards."""
        few = rows.take(np.arange(min(SHOWN_ROWS, len(rows))))
        answers = self.sample(few, greedy=True)
        rewards_R = self.judge(answers, few)
        return [
            GeneratedAnswer(
                prompt=readable(self._tokenizer.decode(prompt.tolist(), skip_special_tokens=False), from_end=True),
                reference=None,
                answer=readable(text),
                reward=float(reward),
            )
            for prompt, text, reward in zip(answers.prompts, answers.texts, rewards_R, strict=True)
        ]
