"""A reward model, PPO, DPO and GRPO on SmolLM2's own answers to questions about Python's standard library.

The known reward of an answer is the share of its words that are plain: letters alone, but for punctuation at its end.
Names in code, which SmolLM2 likes to repeat from the question, are not.
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
from benchmarks.relations.policies import Answered, answers
from benchmarks.relations.results import Figures, Results
from benchmarks.relations.rows import Row
from benchmarks.relations.runs import Trained, fill, train

JUDGE = "ft:smollm2::judge"
TECHNIQUE = {"type": "lora", "rank": 8, "target_modules": r".*layers\.2\d\..*_proj"}
"""In the last ten of thirty layers: what is below them needs no backward pass, a third of the time."""
MAX_TOKENS = 12
DRAWN = 5
"""Answers drawn for each prompt; any two of them may make a pair."""
LEAST_GAP = 0.25
"""Of the known rewards in a pair; nearer answers are no preference."""
RATES = {"reward": 1e-3, "ppo": 2e-3, "dpo": 1e-3, "grpo": 3e-3}
PPO = {"max_tokens": MAX_TOKENS, "num_ppo_epochs": 4, "kl_coefficient": 0.05}
PPO_STEPS, PPO_PROMPTS = 8, 24
GRPO = {"max_tokens": MAX_TOKENS, "group_size": 4, "num_iterations": 3}
GRPO_STEPS, GRPO_PROMPTS = 12, 6
REWARD_EPOCHS, DPO_EPOCHS = 1, 1
"""More pairs once, rather than fewer twice: that is what a reward model's accuracy on other prompts comes from."""
REWARD_PAIRS_A_STEP, DPO_PAIRS_A_STEP = 4, 8
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
    """0 to 1; 0 for an empty answer."""
    words = text.split()
    return sum(_PLAIN.fullmatch(word) is not None for word in words) / max(1, len(words))


def measure(results: Results, scratch: Path, seed: int, only: Sequence[str]) -> None:
    """What is wanted, and what that is made from."""
    wanted = {name for name in NAMES if any(part in name for part in only)}
    work = _Work(scratch / f"rewards-{seed}", seed)
    if wanted & {"pairs", "reward model", "ppo", "dpo"}:
        pairs = results.measured("pairs", seed, work.pairs)
    if wanted & {"reward model", "ppo"}:
        judge = results.measured("reward model", seed, lambda: work.reward_model(pairs["train"], pairs["heldout"]))
    if wanted & {"supervised", "ppo", "dpo"}:
        before = results.measured("supervised", seed, lambda: work.asked_heldout(None))
    if "ppo" in wanted:
        work.judge_folder(judge, pairs["train"], pairs["heldout"])
        results.measured("ppo", seed, lambda: work.ppo(before))
    if "dpo" in wanted:
        results.measured("dpo", seed, lambda: work.dpo(pairs["train"], pairs["heldout"], before))
    if "grpo" in wanted:
        results.measured("grpo", seed, work.grpo)


class _Work:
    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed, self._base = folder, seed, bases.smollm()
        self._asked = rows.asked(seed)
        self._judge = folder / "reward" / "out" / "model"

    def pairs(self) -> Figures:
        """Of SmolLM2's own answers to the training prompts, and to others for the held-out pairs."""
        found: Figures = {}
        for part, prompts in (("train", self._asked["train"]), ("heldout", self._asked["reward_heldout"])):
            several = [prompt for prompt in prompts for _ in range(DRAWN)]
            texts = self._answers(several, None).texts
            found[part] = [
                _pair(prompt, better, worse)
                for at, prompt in enumerate(prompts)
                for better, worse in permutations(texts[at * DRAWN : (at + 1) * DRAWN], 2)
                if known_reward(better) - known_reward(worse) >= LEAST_GAP
            ]
        return found

    def reward_model(self, pairs: list[Row], heldout: list[Row]) -> Figures:
        trained = self._train("reward", pairs, heldout, {"n_epochs": REWARD_EPOCHS, "batch_size": REWARD_PAIRS_A_STEP})
        (trained.published / "base").symlink_to(self._base)
        return {
            "accuracy": trained.last["full_valid_rewards_accuracy"],
            "heldout_pairs": len(heldout),
            "pairs": len(pairs),
            "seconds": trained.seconds,
            "steps": trained.recipe().total_steps,
        }

    def judge_folder(self, figures: Figures, pairs: list[Row], heldout: list[Row]) -> None:
        """PPO needs the model itself: where it is gone, it is trained again, to the same weights."""
        if not self._judge.exists():
            again = self.reward_model(pairs, heldout)
            assert again["accuracy"] == figures["accuracy"], "another reward model than was measured"

    def asked_heldout(self, adapter: Path | None) -> Figures:
        """Answers to the held-out prompts, drawn with the same numbers from every policy."""
        found = self._answers(self._asked["heldout"], adapter)
        grader = TextSimilarity.model_validate(GRADER)
        return {
            "texts": found.texts,
            "known_rewards": [known_reward(text) for text in found.texts],
            "known_reward": statistics.mean(map(known_reward, found.texts)),
            "grade": _mean_grade(grader, found.texts, self._asked["heldout"]),
            "kl": found.kl,
            "answer_tokens": found.tokens,
        }

    def ppo(self, before: Figures) -> Figures:
        options = {**PPO, "reward_model": JUDGE}
        prompts = self._prompts(PPO_STEPS * PPO_PROMPTS)
        trained = self._train("ppo", prompts, self._asked["heldout"], {"batch_size": PPO_PROMPTS}, options)
        first, last = trained.metrics[0], trained.metrics[-1]
        after = self.asked_heldout(trained.published)
        return {
            **after,
            "wins": _wins(after["known_rewards"], before["known_rewards"]),
            "seconds": trained.seconds,
            "learnt_rewards": [each["train_reward"] for each in trained.metrics],
            "kls": [each["train_kl"] for each in trained.metrics],
            "entropies": [each["train_entropy"] for each in trained.metrics],
            "step_seconds": trained.seconds / len(trained.metrics),
            "learnt_reward_before": first["train_reward"],
            "learnt_reward_after": statistics.mean(each["train_reward"] for each in trained.metrics[-3:]),
            "greedy_learnt_reward": last["full_valid_reward"],
        }

    def dpo(self, pairs: list[Row], heldout: list[Row], before: Figures) -> Figures:
        """Each epoch's checkpoint is a point of reward against divergence."""
        hyperparameters = {"n_epochs": DPO_EPOCHS, "batch_size": DPO_PAIRS_A_STEP}
        trained = self._train("dpo", pairs, heldout, hyperparameters)
        points = []
        for checkpoint in sorted((trained.run / "out" / "checkpoints").iterdir()):
            after = self.asked_heldout(checkpoint)
            wins = _wins(after["known_rewards"], before["known_rewards"])
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
        trained = self._train("grpo", prompts, self._asked["heldout"], {"batch_size": GRPO_PROMPTS}, options)
        after = self.asked_heldout(trained.published)
        return {
            **after,
            "seconds": trained.seconds,
            "rewards": [each["train_reward"] for each in trained.metrics],
            "entropies": [each["train_entropy"] for each in trained.metrics],
        }

    def _prompts(self, count: int) -> list[Row]:
        prompts = self._asked["train"]
        return (prompts * -(-count // len(prompts)))[:count]

    def _answers(self, prompts: Sequence[Row], adapter: Path | None) -> Answered:
        return answers(
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
        fill(
            run,
            self._base,
            train_rows,
            heldout,
            seed=self._seed,
            method={"type": method, method: {**(options or {}), "hyperparameters": {"n_epochs": 1, **hyperparameters}}},
            technique=TECHNIQUE,
            training={"learning_rate": RATES[name]},
            judges={JUDGE: self._judge} if name == "ppo" else None,
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


def _wins(ours: list[float], theirs: list[float]) -> float:
    """The share of prompts on which ours earns more; equals count half."""
    return statistics.mean((a > b) + (a == b) / 2 for a, b in zip(ours, theirs, strict=True))
