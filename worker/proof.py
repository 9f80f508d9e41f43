"""Before anything is published: it is finite, it learned, and its files give the trainer's log-probabilities."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from worker.arrays import Rows
from worker.batches import Layout, micro_batches
from worker.loop import highest_loss
from worker.model import TrainableModel, load_base
from worker.stopping import TrainingError

PROOF_ROWS = 4
PROOF_TOKENS = 128
"""Per row."""
TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 2e-2}
LARGEST_WEIGHT = 65504.0
"""float16's largest number: weights beyond it cannot be served, whatever loss they happen to give."""

LogProbs = list[torch.Tensor]
"""For each proof row, float32 [T - 1]: the log-probability of each token after the first."""


def proof_rows(rows: Rows) -> Rows:
    return Rows(
        rows.tokens,
        rows.loss_weights,
        rows.starts[:PROOF_ROWS],
        np.minimum(rows.ends[:PROOF_ROWS], rows.starts[:PROOF_ROWS] + PROOF_TOKENS),
    )


@torch.no_grad()
def trainer_logprobs(model: TrainableModel, rows: Rows) -> LogProbs:
    """By the path that trained: its attention, its loss head, its weights in memory."""
    model.model.eval()
    layout = Layout(packed=model.layout.packed, alone=True)
    every_token = Rows(rows.tokens, np.ones_like(rows.loss_weights), rows.starts, rows.ends)
    return [
        model.logprobs(batch)[0].cpu()
        for row in range(len(rows))
        for batch in micro_batches(every_token.take(np.array([row])), PROOF_TOKENS, layout, model.device)
    ]


@torch.no_grad()
def file_logprobs(folder: Path, base: Path, recipe: ResolvedRecipe, rows: Rows, device: torch.device) -> LogProbs:
    """As any user gets them: the files loaded by peft or transformers, its own attention, its own logits."""
    dtype = getattr(torch, str(recipe.precision))
    if recipe.technique.type == "full":
        model = load_base(folder, dtype, device)
    else:
        model = PeftModel.from_pretrained(load_base(base, dtype, device), str(folder))
    model.eval()
    found = []
    for tokens_T, _ in rows:
        tokens = torch.from_numpy(tokens_T.astype(np.int64)).to(device)
        logits_T_V = model(input_ids=tokens[None]).logits[0].float()
        found.append(logits_T_V.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0].cpu())
    return found


def check_trained(model: TrainableModel, rows: Rows, logprobs: LogProbs, first_loss: float | None) -> None:
    """Raises TrainingError (diverged) if the weights to publish are not finite, absurdly large, or worse than blind."""
    for master in model.masters.values():
        largest = float(master.detach().abs().max())
        if not largest <= LARGEST_WEIGHT:  # false for NaN, too
            raise TrainingError(FailureReason.DIVERGED)
    weights = [torch.from_numpy(np.array(weights_T[1:])) for _, weights_T in rows]
    total = sum(float(w.sum()) for w in weights)
    if total == 0:  # the cut left no supervised token: judge by all of them
        weights, total = [torch.ones_like(w) for w in weights], sum(len(w) for w in weights)
    loss = -sum(float((w * lp).sum()) for w, lp in zip(weights, logprobs, strict=True)) / total
    vocabulary = model.causal_lm.config.vocab_size
    if not math.isfinite(loss) or loss > highest_loss(vocabulary, first_loss):
        raise TrainingError(FailureReason.DIVERGED)


def check_files(trainer: LogProbs, files: LogProbs, precision: str) -> float:
    """The largest difference, in nats. Raises TrainingError (internal) if it is beyond rounding."""
    difference = torch.cat(trainer) - torch.cat(files)
    # bfloat16 rounds each single logit by up to 2^-8 of itself; what must agree is the rows' likelihood.
    measured = difference.abs().max() if precision == "float32" else difference.abs().mean()
    if not float(measured) <= TOLERANCE_NATS[precision]:
        message = "The exported files do not reproduce the trained model, so nothing was published."
        raise TrainingError(FailureReason.INTERNAL, message) from ArithmeticError(f"off by {float(measured)} nats")
    return float(difference.abs().max())


def write_logprobs(folder: Path, rows: Rows, logprobs: LogProbs, precision: str) -> None:
    pairs = zip(rows, logprobs, strict=True)
    written: dict[str, Any] = {
        "precision": precision,
        "rows": [{"tokens": tokens_T.tolist(), "logprobs": found.tolist()} for (tokens_T, _), found in pairs],
    }
    (folder / "logprobs.json").write_text(json.dumps(written) + "\n")
