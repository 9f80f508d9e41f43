"""Every legal technique x method x kind of base model, on tiny models: what each is trained on, and how it is run."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from api.spec.catalog import combinations
from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from tests.worker.recorder import Recorder
from worker.engine.data import load_data
from worker.engine.generation.rollout_objective import RolloutObjective
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish.publish import publish
from worker.methods import METHODS, MethodContext, Objective
from worker.shared.arrays import Rows, save_rows
from worker.train import run_steps

ROWS = 8
SMALL: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "dora": {"rank": 4},
    "qlora": {"rank": 4},
    "prefix": {"tokens": 8},
    "prompt": {"tokens": 8},
    "bottleneck": {"reduction_factor": 4},
}
"""What fits a model of 32 dimensions; a technique that is not named here is taken as it is."""
RATES = {"full": 3e-3, "prefix": 5e-2, "prompt": 3e-1, "ia3": 2e-1}
"""Peak learning rates with which tiny models memorise in a few dozen steps; 1e-2 for the others."""
ROLLOUT_RATES = {"full": 1e-2, "prefix": 1e-1, "prompt": 3e-1, "ia3": 1e-1, "qlora": 1e-2}
"""… from rewards; 2e-2 for the others."""
STEPS = 40
ROLLOUT_STEPS = {"full": 16, "lora": 16}
"""From rewards, where a step samples 64 answers, these techniques learn enough in fewer steps."""
JUDGE = "ft:tiny:attune::judge"
SCORE = {
    "type": "score_model",
    "name": "judge",
    "model": JUDGE,
    "input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{{sample.output_text}}"}],
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"reward_model": JUDGE, "max_tokens": 8, "kl_coefficient": 0.0, "num_ppo_epochs": 4},
    "reinforcement": {"grader": SCORE, "max_tokens": 8, "group_size": 8},
}
LEGAL = [each for each in combinations() if each.reason is None]


@dataclass(frozen=True)
class Trained:
    run: Path
    metrics: list[dict[str, Any]]
    frozen_before: str
    frozen_after: str
    trained_before: str
    trained_after: str
    reward_before: float | None
    reward_after: float | None
    """Over many answers, of a method that samples: the few of a step are too noisy to tell."""


def _rate(technique: str, method: str) -> float:
    return ROLLOUT_RATES.get(technique, 2e-2) if method in OPTIONS else RATES.get(technique, 1e-2)


def _steps(technique: str, method: str) -> int:
    return ROLLOUT_STEPS.get(technique, STEPS) if method in OPTIONS else STEPS


def fill(folder: Path, method: str, seed: int) -> Labels | None:
    """Write the method's rows into a run folder. Answers use few tokens, so that even a prefix can learn them."""
    rng = np.random.default_rng(seed)
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / "train.safetensors"

    def sequence(tokens: Sequence[int], length: int = 6) -> tuple[Any, Any]:
        prompt, answer = rng.integers(1, 250, 6), rng.choice(tokens, length)
        return np.concatenate([prompt, answer]), np.repeat([0.0, 1.0], [len(prompt), len(answer)])

    match method:
        case "dpo" | "orpo" | "simpo" | "reward":
            pairs = [sequence(tokens) for _ in range(ROWS) for tokens in ((10, 11, 12), (20, 21, 22))]
            _save(path, pairs, width=2)
        case "kto":
            rows = [sequence((10, 11) if row % 2 else (20, 21)) for row in range(ROWS)]
            _save(path, rows, labels=np.array([[row % 2] for row in range(ROWS)]))
        case "classification":
            rows = [sequence((10, 11) if row % 2 else (20, 21)) for row in range(ROWS)]
            _save(path, [(t, 0 * w) for t, w in rows], labels=np.array([[r % 2] for r in range(ROWS)]), names="ab")
            return Labels(problem="single_label", names=("a", "b"))
        case "ppo" | "reinforcement":
            prompts = [(rng.integers(1, 250, 6), np.zeros(6)) for _ in range(ROWS)]
            _save(path, prompts, items=[{"prompt": str(row)} for row in range(ROWS)])
        case _:
            _save(path, [sequence((10, 11, 12)) for _ in range(ROWS)])
    return None


def _save(
    path: Path, rows: Sequence[Any], *, labels: Any = None, names: str | None = None, items: Any = None, width: int = 1
) -> None:
    tokens, weights = (np.concatenate(column) for column in zip(*rows, strict=True))
    texts = [json.dumps(item).encode() for item in items] if items else []
    save_rows(
        path,
        tokens,
        weights,
        np.cumsum([0, *(len(row) for row, _ in rows)]),
        width=width,
        labels=None if labels is None else labels.astype(np.float32),
        label_names=names,
        items=np.frombuffer(b"".join(texts), np.uint8) if items else None,
        item_starts=np.cumsum([0, *map(len, texts)]) if items else None,
    )


def make(
    folder: Path,
    base: Path,
    technique: str,
    method: str,
    *,
    seed: int,
    steps: int | None = None,
    rate: float | None = None,
    judge: Path | None = None,
    **more: Any,
) -> ResolvedRecipe:
    """A run folder of this pair. `judge`: what a reward job published, and its base beside it."""
    labels = fill(folder, method, seed)
    (folder / "base").symlink_to(base)
    if judge is not None and method in OPTIONS:
        entry = {"folder": "judge", "technique": {"type": "lora", **SMALL["lora"]}}
        (folder / "judges.json").write_text(json.dumps({JUDGE: entry}))
        (folder / "judge").symlink_to(judge)
    recipe = Recipe.model_validate(
        {
            "model": "tiny",
            "training_file": "file-train",
            "seed": 7,
            "technique": {"type": technique, **SMALL.get(technique, {})} | more.pop("technique", {}),
            "method": {
                "type": method,
                method: OPTIONS.get(method, {})
                | {"hyperparameters": {"n_epochs": 50, "batch_size": ROWS}}
                | more.pop("options", {}),
            },
            "training": {
                "learning_rate": rate or _rate(technique, method),
                "max_steps": steps or _steps(technique, method),
                "scheduler": "constant",
                "warmup_ratio": 0.0,
                "save_every": 1000,
            }
            | more,
        }
    )
    resolved = resolve(
        recipe, job_id="ftjob-test", seed=7, max_length=64, train_rows=ROWS, validation_rows=0, labels=labels
    )
    settled = {"precision": "float32", "micro_batch_tokens": 256, "gradient_checkpointing": False, "merged": True}
    resolved = resolved.model_copy(update=settled)
    (folder / "recipe.json").write_text(resolved.model_dump_json(indent=2))
    return resolved


GRADER = {
    "type": "text_similarity",
    "name": "close",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": "abcdefgh {{item.prompt}}",
}
CPU = torch.device("cpu")


def train(folder: Path, *, publishes: bool = True, device: torch.device = CPU) -> Trained:
    """The trainer's own steps, with looks at the weights before and after."""
    recipe = ResolvedRecipe.model_validate_json((folder / "recipe.json").read_bytes())
    recorder: Any = Recorder()
    data = load_data(folder / "data", recipe)
    model = load_trainable(folder / "base", recipe, device, opening=data.train.tokens)
    objective = METHODS[recipe.method.type](MethodContext(recipe, folder, model, recorder.report))
    data = data.prepare(objective)
    data.compute_references(objective, recorder.warn)
    before = digest(frozen(model)), digest(model.trained.items())
    reward_before = mean_reward(objective, data.train)
    callbacks = run_steps(folder, recipe, data, objective, recorder)
    after = digest(frozen(model)), digest(model.trained.items())
    reward_after = mean_reward(objective, data.train)
    if publishes:
        step = callbacks.load_best_weights()
        callbacks.release()
        first_loss = callbacks.progress.first_loss
        publish(folder, recipe, data, objective, callbacks.summary(), recorder, step=step, first_loss=first_loss)
    weights = (before[0], after[0], before[1], after[1])
    return Trained(folder, recorder.of("metrics"), *weights, reward_before, reward_after)


def mean_reward(objective: Objective, prompts: Rows) -> float | None:
    if not isinstance(objective, RolloutObjective):
        return None
    many = prompts.take(np.repeat(np.arange(len(prompts)), 16))
    return float(objective.rewards(objective.sample(many), many).mean())


def frozen(model: TrainableModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights and buffers that are not trained."""
    yield from ((name, each) for name, each in model.model.named_parameters() if not each.requires_grad)
    yield from model.model.named_buffers()


def digest(tensors: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
