"""The same loss and gradients by two ways: the trainer's, and the plainest possible one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tests.worker.run_folders import save
from worker.engine.model.batches import Layout, micro_batches, total_weight
from worker.engine.model.families import may_be_packed, needs_single_rows
from worker.engine.model.load import checked_config
from worker.engine.model.modes import disable_training_behavior
from worker.engine.model.trainable import TrainableModel
from worker.methods.supervised import cross_entropy
from worker.shared.arrays import Rows, load_rows

Gradients = dict[str, torch.Tensor]


def as_rows(folder: Path, rows: Any) -> Rows:
    save(folder / "rows.safetensors", rows)
    return load_rows(folder / "rows.safetensors")


def trainer_loss(
    base: Path,
    rows: Rows,
    *,
    budget_tokens: int = 10_000,
    layout: Layout | None = None,
    adapt: Callable[[Any], Any] = lambda model: model,
) -> tuple[float, Gradients, TrainableModel]:
    """All weights trained, by the trainer's path: packed where the family may be, in one micro-batch if it fits.

    `adapt` may put adapters into the model that transformers loaded, in place.
    """
    config = checked_config(base)
    packed = may_be_packed(config)
    options = {"attn_implementation": "attune_packed"} if packed else {}
    causal_lm = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **options)
    disable_training_behavior(causal_lm)
    adapt(causal_lm)
    model = TrainableModel(causal_lm, Layout(packed=packed, single_row=needs_single_rows(config)))
    weight, loss_sum = total_weight(rows), 0.0
    model.model.train()
    for batch in micro_batches(rows, budget_tokens, layout or model.layout, model.device):
        scores = model.token_scores(batch)
        loss, _ = cross_entropy(scores.smoothed_logprobs, scores.correct, batch.weights, weight)
        loss.backward()
        loss_sum += loss.item()
    return loss_sum, _gradients(causal_lm), model


def plain_loss(base: Path, rows: Rows, *, adapt: Callable[[Any], Any] = lambda model: model) -> tuple[float, Gradients]:
    """One example at a time through transformers' own forward, eager attention, the whole logits."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    adapt(model)
    total, weight = torch.zeros(()), 0.0
    for tokens_T, weights_T in rows:
        tokens = torch.tensor(tokens_T.tolist())
        weights = torch.tensor(weights_T.tolist())[1:]
        logits = model(input_ids=tokens[None]).logits[0, :-1]
        total = total + (weights * functional.cross_entropy(logits, tokens[1:], reduction="none")).sum()
        weight += float(weights.sum())
    loss = total / weight
    loss.backward()
    return loss.item(), _gradients(model)


def worst_difference(ours: Gradients, plain: Gradients) -> float:
    """Over all tensors, the largest relative difference ‖Δ‖ / ‖g‖."""
    assert ours.keys() == plain.keys()
    return max(float((ours[name] - plain[name]).norm() / plain[name].norm()) for name in plain)


def _gradients(model: Any) -> Gradients:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.norm() > 0}
