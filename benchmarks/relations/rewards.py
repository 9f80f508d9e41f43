"""A reward model, PPO, DPO and GRPO on SmolLM2's own answers to questions about Python's standard library.

The known reward of an answer is the share of its words that consist of letters and at most one punctuation mark at the
end. Code names, which SmolLM2 often repeats from the question, do not.
"""

import re
import shutil
import statistics
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from api.spec.graders import grade
from api.spec.graders.text_similarity import TextSimilarity
from benchmarks.relations import bases, rows
from benchmarks.relations.policies import Answers, sample_answers
from benchmarks.relations.results import Figures, Results
from benchmarks.relations.rows import Row
from benchmarks.relations.runs import Trained, fill_run_folder, train

REWARD_MODEL = "ft:smollm2::judge"
TECHNIQUE = {"type": "lora", "rank": 8, "target_modules": r".*layers\.2\d\..*_proj"}
"""LoRA adapts only the last ten of thirty layers, so that the backward pass skips the others and takes a third of its
time."""
MAX_TOKENS = 12
ANSWERS_PER_PROMPT = 5
"""Sampled answers; any two of them with different enough rewards become a pair."""
MIN_REWARD_GAP = 0.25
"""Smallest difference between the known rewards of a pair."""
RATES = {"reward": 1e-3, "ppo": 2e-3, "dpo": 1e-3, "grpo": 3e-3}
PPO = {"max_tokens": MAX_TOKENS, "num_ppo_epochs": 4, "kl_coefficient": 0.05}
PPO_STEPS, PPO_PROMPTS = 8, 24
GRPO = {"max_tokens": MAX_TOKENS, "group_size": 4, "num_iterations": 3}
GRPO_STEPS, GRPO_PROMPTS = 12, 6
REWARD_EPOCHS, DPO_EPOCHS = 1, 1
"""More pairs once instead of fewer twice: the accuracy on other prompts depends on the number of pairs."""
REWARD_BATCH, DPO_BATCH = 4, 8
NAMES = ("pairs", "reward model", "supervised", "ppo", "dpo", "grpo")
GRADER = {
    "type": "text_similarity",
    "name": "docstring",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "evaluation_metric": "fuzzy_match",
}
_PLAIN = re.compile(r"[A-Za-z]+[.,;:!?]?")


def known_reward(text: str) -> float:
    """Return the known reward, 0 to 1; an empty answer gets 0."""
    words = text.split()
    return sum(_PLAIN.fullmatch(word) is not None for word in words) / max(1, len(words))


def measure(results: Results, scratch: Path, seed: int, only: Sequence[str]) -> None:
    """Measure the selected experiments and those that they depend on."""
    selected = {name for name in NAMES if any(part in name for part in only)}
    experiments = _Experiments(scratch / f"rewards-{seed}", seed)
    if selected & {"pairs", "reward model", "ppo", "dpo"}:
        pairs = results.get_or_measure("pairs", seed, experiments.pairs)
    if selected & {"reward model", "ppo"}:
        reward_model = results.get_or_measure(
            "reward model", seed, lambda: experiments.reward_model(pairs["train"], pairs["heldout"])
        )
    if selected & {"supervised", "ppo", "dpo"}:
        before = results.get_or_measure("supervised", seed, lambda: experiments.answer_heldout(None))
    if "ppo" in selected:
        experiments.ensure_reward_model(reward_model, pairs["train"], pairs["heldout"])
        results.get_or_measure("ppo", seed, lambda: experiments.ppo(before))
    if "dpo" in selected:
        results.get_or_measure("dpo", seed, lambda: experiments.dpo(pairs["train"], pairs["heldout"], before))
    if "grpo" in selected:
        results.get_or_measure("grpo", seed, experiments.grpo)


class _Experiments:
    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed, self._base = folder, seed, bases.smollm()
        self._questions = rows.questions(seed)
        self._reward_model_dir = folder / "reward" / "out" / "model"

    def pairs(self) -> Figures:
        """Return pairs of SmolLM2's own answers to the training prompts, and held-out pairs from other prompts."""
        pairs: Figures = {}
        for part, prompts in (("train", self._questions["train"]), ("heldout", self._questions["reward_heldout"])):
            repeated = [prompt for prompt in prompts for _ in range(ANSWERS_PER_PROMPT)]
            texts = self._answers(repeated, None).texts
            pairs[part] = [
                _pair(prompt, better, worse)
                for index, prompt in enumerate(prompts)
                for better, worse in permutations(
                    texts[index * ANSWERS_PER_PROMPT : (index + 1) * ANSWERS_PER_PROMPT], 2
                )
                if known_reward(better) - known_reward(worse) >= MIN_REWARD_GAP
            ]
        return pairs

    def reward_model(self, pairs: list[Row], heldout: list[Row]) -> Figures:
        trained = self._train("reward", pairs, heldout, {"n_epochs": REWARD_EPOCHS, "batch_size": REWARD_BATCH})
        (trained.published / "base").symlink_to(self._base)
        return {
            "accuracy": trained.last["full_valid_rewards_accuracy"],
            "heldout_pairs": len(heldout),
            "pairs": len(pairs),
            "seconds": trained.seconds,
            "steps": trained.recipe().total_steps,
        }

    def ensure_reward_model(self, figures: Figures, pairs: list[Row], heldout: list[Row]) -> None:
        """Train the reward model again if its folder is gone, since PPO loads it. Its weights must be the same."""
        if not self._reward_model_dir.exists():
            again = self.reward_model(pairs, heldout)
            assert again["accuracy"] == figures["accuracy"], "the reward model differs from the measured one"

    def answer_heldout(self, adapter: Path | None) -> Figures:
        """Return figures of answers to the held-out prompts, sampled with the same seed from every policy."""
        sampled = self._answers(self._questions["heldout"], adapter)
        grader = TextSimilarity.model_validate(GRADER)
        return {
            "texts": sampled.texts,
            "known_rewards": [known_reward(text) for text in sampled.texts],
            "known_reward": statistics.mean(map(known_reward, sampled.texts)),
            "grade": _mean_grade(grader, sampled.texts, self._questions["heldout"]),
            "kl": sampled.kl,
            "answer_tokens": sampled.tokens,
        }

    def ppo(self, before: Figures) -> Figures:
        options = {**PPO, "reward_model": REWARD_MODEL}
        prompts = self._prompts(PPO_STEPS * PPO_PROMPTS)
        trained = self._train("ppo", prompts, self._questions["heldout"], {"batch_size": PPO_PROMPTS}, options)
        first, last = trained.metrics[0], trained.metrics[-1]
        after = self.answer_heldout(trained.published)
        return {
            **after,
            "wins": _win_rate(after["known_rewards"], before["known_rewards"]),
            "seconds": trained.seconds,
            "learnt_rewards": [metrics["train_reward"] for metrics in trained.metrics],
            "kls": [metrics["train_kl"] for metrics in trained.metrics],
            "entropies": [metrics["train_entropy"] for metrics in trained.metrics],
            "step_seconds": trained.seconds / len(trained.metrics),
            "learnt_reward_before": first["train_reward"],
            "learnt_reward_after": statistics.mean(metrics["train_reward"] for metrics in trained.metrics[-3:]),
            "greedy_learnt_reward": last["full_valid_reward"],
        }

    def dpo(self, pairs: list[Row], heldout: list[Row], before: Figures) -> Figures:
        """Train with DPO and return the figures. They have a point of reward against divergence for each epoch's
        checkpoint."""
        hyperparameters = {"n_epochs": DPO_EPOCHS, "batch_size": DPO_BATCH}
        trained = self._train("dpo", pairs, heldout, hyperparameters)
        points = []
        for checkpoint in sorted((trained.run / "out" / "checkpoints").iterdir()):
            after = self.answer_heldout(checkpoint)
            wins = _win_rate(after["known_rewards"], before["known_rewards"])
            points.append({**after, "checkpoint": checkpoint.name, "wins": wins})
        return {
            "points": points,
            "seconds": trained.seconds,
            "accuracy": trained.last["full_valid_rewards_accuracy"],
            "known_reward": points[-1]["known_reward"],
            "kl": points[-1]["kl"],
        }

    def grpo(self) -> Figures:
        prompts = self._prompts(GRPO_STEPS * GRPO_PROMPTS)
        options = {**GRPO, "grader": GRADER}
        trained = self._train("grpo", prompts, self._questions["heldout"], {"batch_size": GRPO_PROMPTS}, options)
        after = self.answer_heldout(trained.published)
        return {
            **after,
            "seconds": trained.seconds,
            "rewards": [metrics["train_reward"] for metrics in trained.metrics],
            "entropies": [metrics["train_entropy"] for metrics in trained.metrics],
        }

    def _prompts(self, count: int) -> list[Row]:
        prompts = self._questions["train"]
        return (prompts * -(-count // len(prompts)))[:count]

    def _answers(self, prompts: Sequence[Row], adapter: Path | None) -> Answers:
        return sample_answers(
            self._folder / "answers",
            self._base,
            TECHNIQUE,
            prompts,
            adapter=adapter,
            max_tokens=MAX_TOKENS,
            seed=self._seed,
        )

    def _train(
        self,
        name: str,
        train_rows: list[Row],
        heldout: list[Row],
        hyperparameters: dict[str, int],
        options: dict[str, Any] | None = None,
    ) -> Trained:
        method = "reinforcement" if name == "grpo" else name
        run = self._folder / name
        shutil.rmtree(run, ignore_errors=True)
        fill_run_folder(
            run,
            self._base,
            train_rows,
            heldout,
            seed=self._seed,
            method={"type": method, method: {**(options or {}), "hyperparameters": {"n_epochs": 1, **hyperparameters}}},
            technique=TECHNIQUE,
            training={"learning_rate": RATES[name]},
            reward_models={REWARD_MODEL: self._reward_model_dir} if name == "ppo" else None,
        )
        return train(run)


def _pair(prompt: Row, preferred: str, other: str) -> Row:
    return {
        "input": {"messages": prompt["messages"]},
        "preferred_output": [rows.message("assistant", preferred)],
        "non_preferred_output": [rows.message("assistant", other)],
    }


def _mean_grade(grader: TextSimilarity, texts: list[str], prompts: Sequence[Row]) -> float:
    return statistics.mean(grade(grader, text, prompt).reward for text, prompt in zip(texts, prompts, strict=True))


def _win_rate(ours: list[float], theirs: list[float]) -> float:
    """Return the share of prompts with a higher reward in `ours`. Ties count half."""
    return statistics.mean((a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True))
