"""The common part of methods that learn from their own samples: sampling, rewards, evaluation and reports."""

import numpy as np

from api.spec.evaluation import SHOWN_ROWS
from api.spec.graders import GraderBase
from api.spec.methods.base import RolloutOptions
from worker.engine.generation.rewards import RewardFunction, Rewards
from worker.engine.generation.rollout_sampler import Answers, RolloutSampler
from worker.engine.generation.sample_answers import GeneratedAnswer, display_text
from worker.engine.objective import EvaluationMetrics, MethodContext, Objective
from worker.rows.generation_ends import tokenizer_and_ends
from worker.shared.arrays import Rows
from worker.shared.reports import RolloutSample, SamplesReport, WarningReport

REPORTED_SAMPLES = 2
SAMPLE_REPORTS = 10
"""Number of steps in a training that report samples."""


class RolloutObjective(Objective):
    """A method that samples answers to prompts, and learns from their rewards.

    Rollouts are part of a step: the loop asks for the rows of its updates (`Objective.updates`), and a subclass yields
    prompts with freshly sampled answers.
    """

    options: RolloutOptions
    eval_samples = 1

    def __init__(self, context: MethodContext, *, reward_model: str | None, grader: GraderBase | None) -> None:
        super().__init__(context)
        base = context.run / "base"
        tokens, ends = tokenizer_and_ends(base.resolve())
        self._tokenizer = tokens.tokenizer
        self._sampler = RolloutSampler(self.model, self._tokenizer, ends.stops, pad_token=min(ends.stops, default=0))
        self._reward_function = RewardFunction(
            context.run,
            self.recipe,
            self.model.device,
            reward_model=reward_model,
            grader=grader,
            ask=context.ask,
            keep_alive=lambda: self.model.keep_alive(),  # noqa: PLW0108 (the comparison replaces the model's)
        )
        self._reported_errors: set[str] = set()

    def sample(self, prompts: Rows, step: int = 0, *, greedy: bool = False) -> Answers:
        """Return an answer to each prompt, sampled from the current policy. `step`: 0 for an evaluation."""
        return self._sampler.sample(
            prompts,
            max_tokens=self.options.max_tokens,
            temperature=0.0 if greedy else self.options.temperature,
            plan=self.sampling_plan(),
            seed=(self.recipe.seed, step),
        )

    def rewards(self, answers: Answers, prompts: Rows) -> Rewards:
        """Return the rewards [R] of the answers, and store their statistics in `extra_metrics`. Raise Interrupted if a
        pause or stop command comes while judges are asked. No weights may change before this."""
        rewards_R = self._reward_function(answers, prompts, self.budget_tokens)
        lengths = [len(answer) for answer in answers.answers]
        self.extra_metrics = {
            "reward": float(rewards_R.mean()),
            "reward_std": float(rewards_R.std()),
            "answer_tokens": sum(lengths) / len(lengths),
            "ended": float(answers.ended.mean()),
        }
        for error in sorted(self._reward_function.grading_errors - self._reported_errors):
            self._reported_errors.add(error)
            message = f"The grader failed on an answer, so the answer gets reward 0: {error}"
            self.context.report(WarningReport(message=message))
        return rewards_R

    def report_samples(self, step: int, answers: Answers, rewards_R: Rewards) -> None:
        """Report a few answers with their rewards, in some of the steps."""
        if (step - 1) % max(1, self.recipe.total_steps // SAMPLE_REPORTS):
            return
        samples = [
            RolloutSample(
                prompt=display_text(self._tokenizer.decode(answers.prompts[row].tolist()), from_end=True),
                answer=display_text(answers.texts[row]),
                reward=float(rewards_R[row]),
            )
            for row in range(min(REPORTED_SAMPLES, len(answers.texts)))
        ]
        self.context.report(SamplesReport(step=step, samples=samples))

    def evaluate(self, rows: Rows) -> EvaluationMetrics:
        """Return the mean reward of the answers to the prompts, and its negative as the loss.

        If `eval_samples` is 1, each prompt gets a greedy answer. If it is higher, each prompt gets that many sampled
        answers, with the same seed in every evaluation. The training's random generators are not used.
        """
        extra_metrics = dict(self.extra_metrics)
        prompts = rows.take(np.repeat(np.arange(len(rows)), self.eval_samples))
        reward = float(self.rewards(self.sample(prompts, greedy=self.eval_samples == 1), prompts).mean())
        self.extra_metrics = extra_metrics
        return EvaluationMetrics(-reward, {"reward": reward})

    def sample_answers(self, rows: Rows, max_tokens: int) -> list[GeneratedAnswer]:
        """Return greedy answers to a few prompts, with their rewards. `max_tokens` is ignored: answers may be as long
        as in training, because a reward is for a whole answer."""
        first = rows.take(np.arange(min(SHOWN_ROWS, len(rows))))
        answers = self.sample(first, greedy=True)
        rewards_R = self.rewards(answers, first)
        return [
            GeneratedAnswer(
                prompt=display_text(self._tokenizer.decode(prompt.tolist(), skip_special_tokens=False), from_end=True),
                reference=None,
                answer=display_text(text),
                reward=float(reward),
            )
            for prompt, text, reward in zip(answers.prompts, answers.texts, rewards_R, strict=True)
        ]
