"""Before anything is published: it is finite, it learned, and its files give what the trainer's model gives."""

import json
import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from api.spec.lifecycle import FailureReason
from api.spec.manifest import LOGPROBS
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import Full
from worker.engine.errors import TrainingError
from worker.engine.model.batches import Layout, micro_batches, total_weight
from worker.engine.model.load import load_network, load_published, plain_attention
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows

PROOF_ROWS = 4
PROOF_TOKENS = 128
"""Per row."""
LEARNED_OF = 64
"""Rows among which the shortest are looked for."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Nats, or units of a score, between the weights in memory and the files, both through transformers' own forward: the
same arithmetic twice."""
PATH_TOLERANCE = 1e-3
"""Between the trainer's own forward and transformers', in float32. In bfloat16 two correct ways differ by 0.3 nats on
single tokens (docs/engine-log.md), so that only float32, and the tests, can tell."""
ROUNDED_MEAN = {"float32": 1e-2, "bfloat16": 0.25}
"""On average, where the files are other weights that should come to the same: merged ones, or an adapter rewritten for
the weights that it had changed. Each weight is rounded once more, which moves single unlikely tokens by up to a nat;
weights without the adapter, or with it twice, are off by more than that on average."""
ELSEWHERE_MEAN = 0.1
"""On average, in bfloat16, between this machine and another one, whose kernels round elsewhere."""
LARGEST_WEIGHT = 65504.0
"""float16's largest number: weights beyond it cannot be served, whatever loss they happen to give."""

Outputs = list[torch.Tensor]
"""For each proof row, float32: the log-probability of each token after the first, [T - 1]; or the scores, [labels]."""


def proof_rows(rows: Rows) -> Rows:
    """The first sequences, cut. One of a single token, as a prompt may be, has it twice: of that alone a language model
    predicts nothing."""
    found = [tokens_T[:PROOF_TOKENS] for tokens_T, _ in islice(rows, PROOF_ROWS)]
    tokens = [np.repeat(tokens_T, 2) if len(tokens_T) == 1 else tokens_T for tokens_T in found]
    ends = np.cumsum([len(tokens_T) for tokens_T in tokens])
    joined = np.concatenate(tokens)
    return Rows(joined, np.zeros(len(joined), np.float32), np.concatenate([[0], ends[:-1]]), ends)


@torch.no_grad()
def outputs_in_training(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """By the path that trained: the trainer's attention and its heads."""
    model.train(False)
    layout = Layout(packed=model.layout.packed, alone=True, pad_token=model.layout.pad_token)
    every_token = Rows(rows.tokens, np.ones_like(rows.loss_weights), rows.starts, rows.ends)
    tokens = recipe.method.output == "tokens"
    return [
        (model.token_scores(batch).logprobs if tokens else model.sequence_scores(batch)[0]).cpu()
        for row in range(len(rows))
        for batch in micro_batches(every_token.take(np.array([row])), PROOF_TOKENS, layout, model.device)
    ]


@torch.no_grad()
def said_plainly(model: Any, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """As any user gets it: one row at a time through the model's own forward."""
    model.eval()
    found = []
    for tokens_T, _ in rows:
        tokens = torch.from_numpy(tokens_T.astype(np.int64)).to(model.device)
        mask = torch.ones_like(tokens)[None]
        logits = model(input_ids=tokens[None], attention_mask=mask).logits[0].float()
        if recipe.method.output == "tokens":
            logprobs_T_V = logits[-len(tokens) :].log_softmax(-1)  # without virtual tokens
            logits = logprobs_T_V[:-1].gather(1, tokens[1:, None])[:, 0]
        found.append(logits.cpu())
    return found


def outputs_in_memory(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """By the trained weights in memory. From here on the model has transformers' attention."""
    model.network.set_attn_implementation(plain_attention(model.network))
    return said_plainly(model.model, recipe, rows)


def said_by_files(folder: Path, base: Path, recipe: ResolvedRecipe, rows: Rows, device: torch.device) -> Outputs:
    """By the files, loaded as plain peft or transformers load them."""
    return said_plainly(load_published(folder, base, recipe, device), recipe, rows)


def said_by_merged(merged: Path, recipe: ResolvedRecipe, rows: Rows, device: torch.device) -> Outputs:
    whole = recipe.model_copy(update={"technique": Full()})
    return said_plainly(load_network(merged, whole, device, whole=True), recipe, rows)


def outputs_of_gguf(file: Path, whole: Path, rows: Rows, recipe: ResolvedRecipe) -> Outputs:
    """By the file, read back by transformers, which gets the config of the same model as safetensors: its reader of
    GGUF knows no size of heads of some families."""
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=AutoConfig.from_pretrained(whole, trust_remote_code=False, local_files_only=True),
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
    )
    return said_plainly(model, recipe, rows)


def check_weights(model: TrainableModel) -> None:
    """Raises TrainingError (diverged) if the weights to publish are not finite, or absurdly large."""
    for master in model.masters.values():
        largest = float(master.detach().abs().max())
        if not largest <= LARGEST_WEIGHT:  # true for NaN, too
            raise TrainingError(FailureReason.DIVERGED)


def learned_rows(rows: Rows) -> Rows:
    """The shortest of the first rows, whole: their supervised tokens may stand anywhere in them."""
    first = np.arange(min(len(rows), LEARNED_OF))
    return rows.take(np.sort(first[np.argsort(rows.lengths[first], kind="stable")[:PROOF_ROWS]]))


@torch.no_grad()
def check_learned(model: TrainableModel, rows: Rows, highest: float) -> None:
    """Raises TrainingError (diverged) if the model to publish predicts the supervised tokens of rows for training worse
    than one that knows nothing. Others it may predict wrongly with confidence."""
    model.train(False)
    layout = Layout(packed=model.layout.packed, alone=True, pad_token=model.layout.pad_token)
    weight = total_weight(rows)
    loss = 0.0
    for batch in micro_batches(rows, PROOF_TOKENS, layout, model.device):
        loss -= float((batch.weights * model.token_scores(batch).logprobs).sum()) / weight
    if not loss <= highest:  # true for NaN, too
        print(f"proof: the loss on {len(rows)} rows is {loss:.4g}, and {highest:.4g} is allowed", flush=True)
        raise TrainingError(FailureReason.DIVERGED)


def check_forward_parity(path: Outputs, memory: Outputs, precision: str) -> None:
    """Raises TrainingError (internal) if the trainer computed something other than the model."""
    if precision == "float32":
        _agree(path, memory, PATH_TOLERANCE, "The trainer's own computation is not the model's")


def check_files(memory: Outputs, files: Outputs, recipe: ResolvedRecipe) -> None:
    """Raises TrainingError (internal) if the files are not the trained model."""
    otherwise, precision = "The exported files do not reproduce the trained model", str(recipe.precision)
    if recipe.technique.changes_base:
        _agree_on_average(memory, files, ROUNDED_MEAN[precision], otherwise)
    else:
        _agree(memory, files, TOLERANCE[precision], otherwise)


def check_merged(memory: Outputs, said: Outputs, merged: Path, recipe: ResolvedRecipe) -> None:
    """Raises TrainingError (internal) if the merged weights are another model. They are rounded to what the base is
    stored in, which may be less than what was computed with."""
    stored = json.loads((merged / "config.json").read_bytes()).get("dtype", "float32")
    exact = stored == recipe.precision == "float32"
    tolerance = ROUNDED_MEAN["float32" if exact else "bfloat16"]
    _agree_on_average(memory, said, tolerance, "The merged weights do not reproduce the trained model")


def check_gguf(memory: Outputs, said: Outputs, recipe: ResolvedRecipe) -> None:
    """Raises TrainingError (internal) if the file is another model than was trained, its rounding apart."""
    exact = recipe.gguf == "f16" and recipe.precision == "float32"
    tolerance = ROUNDED_MEAN["float32" if exact else "bfloat16"]
    _agree_on_average(memory, said, tolerance, "The GGUF file does not reproduce the trained model")


def _agree(ours: Outputs, theirs: Outputs, tolerance: float, otherwise: str) -> None:
    _require(Apart.of(ours, theirs), "greatest", tolerance, otherwise)


def _agree_on_average(ours: Outputs, theirs: Outputs, tolerance: float, otherwise: str) -> None:
    _require(Apart.of(ours, theirs), "mean", tolerance, otherwise)


def _require(apart: "Apart", measure: Literal["greatest", "mean"], tolerance: float, otherwise: str) -> None:
    """The log gets every row's differences, whatever comes of them; the user gets the largest."""
    difference = apart.greatest if measure == "greatest" else apart.mean
    print(
        f"proof: {len(apart.rows)} rows, {measure} difference {difference:.1e} (allowed: {tolerance:.0e})", flush=True
    )
    if difference <= tolerance:  # false for NaN, too
        return
    print("\n".join(f"proof: {row}" for row in apart.rows), flush=True)
    raise TrainingError(
        FailureReason.INTERNAL,
        f"{otherwise}, so nothing was published: their outputs on {len(apart.rows)} rows of the data differ by "
        f"{difference:.2g} {'on average' if measure == 'mean' else 'at most'}, and {tolerance:.2g} is allowed. "
        f"The largest difference: {apart.worst}. The job's log has all of them.",
    )


@dataclass(frozen=True)
class Apart:
    """How far two models' outputs are from each other."""

    greatest: float
    mean: float
    worst: str
    """Where the largest difference is."""
    rows: list[str]
    """A line about each row."""

    @classmethod
    def of(cls, ours: Outputs, theirs: Outputs) -> "Apart":
        differences = [(one - other).abs() for one, other in zip(ours, theirs, strict=True)]
        # NaN counts as the largest.
        places = [int(each.nan_to_num(math.inf).argmax()) for each in differences]
        lines = [
            f"row {row}, output {at} of {len(each)}: {ours[row][at]:.4g} against {theirs[row][at]:.4g}"
            for row, (each, at) in enumerate(zip(differences, places, strict=True))
        ]
        largest = torch.stack([each[at] for each, at in zip(differences, places, strict=True)])
        means = [f"{line}; {float(each.mean()):.1e} on average" for line, each in zip(lines, differences, strict=True)]
        every = torch.cat(differences)
        worst = lines[int(largest.nan_to_num(math.inf).argmax())]
        return cls(float(every.max()), float(every.mean()), worst, means)


def write_outputs(folder: Path, rows: Rows, said: Outputs, recipe: ResolvedRecipe, *, merged: bool = False) -> None:
    """logprobs.json: what the trained model says, and how near to it the files are to come on any machine."""
    key = "logprobs" if recipe.method.output == "tokens" else "scores"
    pairs = zip(rows, said, strict=True)
    written: dict[str, Any] = {
        "precision": recipe.precision,
        "tolerance": _tolerance_elsewhere(recipe, merged),
        "rows": [{"tokens": tokens_T.tolist(), key: found.tolist()} for (tokens_T, _), found in pairs],
    }
    (folder / LOGPROBS).write_text(json.dumps(written) + "\n")


def _tolerance_elsewhere(recipe: ResolvedRecipe, merged: bool) -> dict[str, float]:
    precision = str(recipe.precision)
    if merged:
        return {"mean": ROUNDED_MEAN["bfloat16"]}
    if recipe.technique.changes_base:
        return {"mean": ROUNDED_MEAN[precision]}
    return {"greatest": PATH_TOLERANCE} if precision == "float32" else {"mean": ELSEWHERE_MEAN}
