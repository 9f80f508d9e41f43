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
from worker.engine.batches import Layout, micro_batches
from worker.engine.loop import highest_loss
from worker.engine.model import TrainableModel, load_base
from worker.engine.stopping import TrainingError

PROOF_ROWS = 4
PROOF_TOKENS = 128
"""Per row."""
TOLERANCE_NATS = {"float32": 1e-4, "bfloat16": 2e-2}
"""Between the weights in memory and the files, both through transformers' own forward: the same arithmetic twice."""
PATH_TOLERANCE_NATS = 1e-3
"""Between the trainer's own forward and transformers', in float32. In bfloat16 two correct ways differ by 0.3 nats on
single tokens (docs/engine-log.md), so that only float32, and the tests, can tell."""
LARGEST_WEIGHT = 65504.0
"""float16's largest number: weights beyond it cannot be served, whatever loss they happen to give."""

LogProbs = list[torch.Tensor]
"""For each proof row, float32 [T - 1]: the log-probability of each token after the first."""


def proof_rows(rows: Rows) -> Rows:
    starts = rows.starts[:PROOF_ROWS]
    return Rows(rows.tokens, rows.loss_weights, starts, np.minimum(rows.ends[:PROOF_ROWS], starts + PROOF_TOKENS))


@torch.no_grad()
def path_logprobs(model: TrainableModel, rows: Rows) -> LogProbs:
    """By the path that trained: the trainer's attention and its loss head."""
    model.model.eval()
    layout = Layout(packed=model.layout.packed, alone=True)
    every_token = Rows(rows.tokens, np.ones_like(rows.loss_weights), rows.starts, rows.ends)
    return [
        model.logprobs(batch)[0].cpu()
        for row in range(len(rows))
        for batch in micro_batches(every_token.take(np.array([row])), PROOF_TOKENS, layout, model.device)
    ]


@torch.no_grad()
def plain_logprobs(model: Any, rows: Rows) -> LogProbs:
    """As any user gets them: one row at a time through the model's own forward."""
    model.eval()
    found = []
    for tokens_T, _ in rows:
        tokens = torch.from_numpy(tokens_T.astype(np.int64)).to(model.device)
        logits_T_V = model(input_ids=tokens[None], use_cache=False).logits[0].float()
        found.append(logits_T_V.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0].cpu())
    return found


def memory_logprobs(model: TrainableModel, rows: Rows) -> LogProbs:
    """Of the trained weights in memory. From here on the model has transformers' attention."""
    model.causal_lm.set_attn_implementation(plain_attention(model.causal_lm))
    return plain_logprobs(model.model, rows)


def file_logprobs(folder: Path, base: Path, recipe: ResolvedRecipe, rows: Rows, device: torch.device) -> LogProbs:
    """Of the files, loaded as plain peft or transformers load them."""
    dtype = getattr(torch, str(recipe.precision))
    whole = recipe.technique.type == "full"
    model = load_base(folder if whole else base, dtype, device)
    model.set_attn_implementation(plain_attention(model))
    return plain_logprobs(model if whole else PeftModel.from_pretrained(model, str(folder)), rows)


def plain_attention(causal_lm: Any) -> str:
    return "sdpa" if causal_lm._supports_sdpa else "eager"


def check_weights(model: TrainableModel) -> None:
    """Raises TrainingError (diverged) if the weights to publish are not finite, or absurdly large."""
    for master in model.masters.values():
        largest = float(master.detach().abs().max())
        if not largest <= LARGEST_WEIGHT:  # true for NaN, too
            raise TrainingError(FailureReason.DIVERGED)


def check_learned(rows: Rows, logprobs: LogProbs, vocabulary: int, first_loss: float | None) -> None:
    """Raises TrainingError (diverged) if the model to publish predicts worse than one that knows nothing."""
    weights = [torch.from_numpy(np.array(weights_T[1:])) for _, weights_T in rows]
    total = sum(float(w.sum()) for w in weights)
    if total == 0:  # the cut left no supervised token: judge by all of them
        weights, total = [torch.ones_like(w) for w in weights], sum(len(w) for w in weights)
    loss = -sum(float((w * lp).sum()) for w, lp in zip(weights, logprobs, strict=True)) / total
    if not math.isfinite(loss) or loss > highest_loss(vocabulary, first_loss):
        raise TrainingError(FailureReason.DIVERGED)


def check_path(path: LogProbs, memory: LogProbs, precision: str) -> None:
    """Raises TrainingError (internal) if the trainer computed something other than the model."""
    if precision == "float32":
        _agree(path, memory, PATH_TOLERANCE_NATS, "The trainer's own computation is not the model's")


def check_files(memory: LogProbs, files: LogProbs, precision: str) -> None:
    """Raises TrainingError (internal) if the files are not the trained model."""
    _agree(memory, files, TOLERANCE_NATS[precision], "The exported files do not reproduce the trained model")


def _agree(ours: LogProbs, theirs: LogProbs, tolerance: float, otherwise: str) -> None:
    difference = float((torch.cat(ours) - torch.cat(theirs)).abs().max())
    print(f"proof: {len(ours)} rows differ by at most {difference:.1e} nats (allowed: {tolerance:.0e})", flush=True)
    if not difference <= tolerance:  # true for NaN, too
        raise TrainingError(FailureReason.INTERNAL, f"{otherwise}, so nothing was published.")


def write_logprobs(folder: Path, rows: Rows, logprobs: LogProbs, precision: str) -> None:
    pairs = zip(rows, logprobs, strict=True)
    written: dict[str, Any] = {
        "precision": precision,
        "rows": [{"tokens": tokens_T.tolist(), "logprobs": found.tolist()} for (tokens_T, _), found in pairs],
    }
    (folder / "logprobs.json").write_text(json.dumps(written) + "\n")
