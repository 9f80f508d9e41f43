"""A method of ours at work on a tiny model: its loss and gradients on given rows."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve
from worker.engine.model.load import load_trainable, plain_attention
from worker.methods import METHODS, MethodContext, Objective
from worker.shared.arrays import Rows

Gradients = dict[str, torch.Tensor]
FULL = {"type": "full"}
LORA = {"type": "lora", "rank": 4}


def settled(
    method: str, options: Mapping[str, Any], technique: Mapping[str, Any] = FULL, budget_tokens: int = 64
) -> ResolvedRecipe:
    """A recipe in float32 whose micro-batches are smaller than the tests' batches."""
    body = {"model": "tiny", "training_file": "file", "method": {"type": method, method: options}}
    recipe = Recipe.model_validate(body | {"technique": technique})
    resolved = resolve(recipe, job_id="job", seed=7, max_length=64, train_rows=12, validation_rows=0)
    hardware = {"precision": "float32", "micro_batch_tokens": budget_tokens, "gradient_checkpointing": False}
    return resolved.model_copy(update=hardware)


def begin(base: Path, run: Path, recipe: ResolvedRecipe) -> Objective:
    """The method, about to make its first step."""
    run.mkdir()
    (run / "base").symlink_to(base)
    model = load_trainable(run / "base", recipe, torch.device("cpu"))
    return METHODS[recipe.method.type](MethodContext(recipe, run, model, lambda *_, **__: None))


def in_transformers(objective: Objective) -> Any:
    """A copy of the model as it is now, with transformers' own attention."""
    model = copy.deepcopy(objective.model.model)
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    network.set_attn_implementation(plain_attention(network))
    return model.eval()


@torch.no_grad()
def change_weights(objective: Objective, by: float = 0.02) -> None:
    """As training does: what was computed before stays as it was."""
    for parameter in objective.model.trained.values():
        parameter.add_(by * torch.randn_like(parameter))


def loss_and_gradients(objective: Objective, rows: Rows) -> tuple[float, Gradients]:
    """Over the micro-batches of one update, as the loop goes through them."""
    normalizer, loss_sum = objective.normalizer(rows), 0.0
    objective.model.train()
    for batch in objective.batches(rows):
        loss, _ = objective.loss(batch, normalizer)
        loss.backward()
        loss_sum += loss.item()
    gradients = {}
    for name, parameter in objective.model.trained.items():
        assert parameter.grad is not None, name
        gradients[name], parameter.grad = parameter.grad, None
    return loss_sum, gradients


def gradients_of(model: Any) -> Gradients:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_equal(ours: tuple[float, Gradients], theirs: tuple[float, Gradients], bound: float = 1e-5) -> None:
    """The loss within the bound, of 1 or of itself if that is more (it is made of differences of sums of
    log-probabilities, far larger than it); and every gradient tensor within ‖Δ‖ / ‖g‖ < bound."""
    (loss, gradients), (expected_loss, expected) = ours, theirs
    assert gradients.keys() == expected.keys()
    assert abs(loss - expected_loss) < bound * max(1.0, abs(expected_loss)), f"loss {loss}, expected {expected_loss}"
    differences = {name: float((gradients[name] - g).norm() / g.norm()) for name, g in expected.items()}
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < bound, f"gradient of {worst}: {differences[worst]}"


def drawn(rng: np.random.Generator, shortest: int, longest: int) -> list[int]:
    return [int(token) for token in rng.integers(0, 250, rng.integers(shortest, longest, endpoint=True))]


def rows_of(sequences: Sequence[tuple[Sequence[int], Sequence[float]]], *, width: int = 1, labels: Any = None) -> Rows:
    """Rows of (tokens, loss weights)."""
    ends = np.cumsum([len(tokens) for tokens, _ in sequences])
    return Rows(
        np.concatenate([np.asarray(tokens, np.int32) for tokens, _ in sequences]),
        np.concatenate([np.asarray(weights, np.float32) for _, weights in sequences]),
        np.concatenate([[0], ends[:-1]]),
        ends,
        width=width,
        labels=None if labels is None else np.asarray(labels, np.float32).reshape(-1, 1),
    )


def answering(prompt: Sequence[int], answer: Sequence[int]) -> tuple[list[int], list[float]]:
    """A sequence whose answer alone is supervised."""
    return [*prompt, *answer], [0.0] * len(prompt) + [1.0] * len(answer)


def drawn_pairs(seed: int, count: int = 5, *, prompt: int = 8, answer: int = 6) -> list[dict[str, list[int]]]:
    """Pairs as TRL's collator for preferences takes them."""
    rng = np.random.default_rng(seed)
    return [
        {
            "prompt_ids": drawn(rng, 1, prompt),
            "chosen_ids": drawn(rng, 1, answer),
            "rejected_ids": drawn(rng, 1, answer),
        }
        for _ in range(count)
    ]


def pair_rows(pairs: Sequence[dict[str, list[int]]], margins: Sequence[float] | None = None) -> Rows:
    sequences = [answering(pair["prompt_ids"], pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")]
    return rows_of(sequences, width=2, labels=margins)
