"""A model's outputs on a few rows of its data, computed in three ways: by the trainer's own forward pass, by
transformers from the weights in memory, and from the exported files."""

from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from api.spec.manifest import LOGPROBS
from api.spec.resolve import ResolvedRecipe
from api.spec.scoring import (
    ModelFiles,
    RecordedOutputs,
    RecordedRow,
    ScoringFailure,
    ScoringRequest,
    ScoringResult,
    Tolerance,
)
from api.spec.techniques import Full
from worker.engine.determinism import use_deterministic_algorithms
from worker.engine.errors import as_training_error, print_traceback
from worker.engine.memory.heap import trim_heap
from worker.engine.memory.peak_memory import PeakSampler
from worker.engine.model.batches import Layout, micro_batches
from worker.engine.model.load import load_published, plain_attention
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows, rows_of

PARITY_ROWS = (2, 4)
"""Smallest and largest number of rows that are compared, if the data has as many."""
PARITY_TOKENS = 128
"""Number of tokens of each row that are compared, and number of tokens in all from which two rows suffice."""

Outputs = list[torch.Tensor]
"""A float32 tensor for each row: the log-probabilities of the tokens after the first, [T - 1], or the scores, [labels].
"""


def parity_rows(rows: Rows) -> Rows:
    """Return the first sequences, truncated to `PARITY_TOKENS`: as many as together have that many tokens, within the
    bounds of `PARITY_ROWS`.

    If a sequence has a single token, as a prompt may have, the token is repeated, because a language model does not
    predict the first token.
    """
    fewest, most = PARITY_ROWS
    sequences: list[npt.NDArray[np.int32]] = []
    for tokens_T, _ in islice(rows, most):
        if len(sequences) >= fewest and sum(map(len, sequences)) >= PARITY_TOKENS:
            break
        sequences.append(np.repeat(tokens_T, 2) if len(tokens_T) == 1 else tokens_T[:PARITY_TOKENS])
    return rows_of(sequences)


@torch.no_grad()
def outputs_in_training(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """Return the outputs that the trainer's own attention and heads compute, one row at a time."""
    model.train(False)
    layout = Layout(packed=model.layout.packed, single_row=True, pad_token=model.layout.pad_token)
    tokens = recipe.method.output == "tokens"
    return [
        (model.token_scores(batch).logprobs if tokens else model.sequence_scores(batch)[0]).cpu()
        for row in range(len(rows))
        for batch in micro_batches(rows.take(np.array([row])), PARITY_TOKENS, layout, model.device)
    ]


@torch.no_grad()
def plain_outputs(model: PreTrainedModel | PeftModel, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """Return the outputs of a transformers model's own forward, one row at a time, as any user gets them."""
    model.eval()
    outputs = []
    for tokens_T, _ in rows:
        tokens = torch.from_numpy(tokens_T.astype(np.int64)).to(model.device)
        mask = torch.ones_like(tokens)[None]
        logits = model(input_ids=tokens[None], attention_mask=mask).logits[0].float()
        if recipe.method.output == "tokens":
            logprobs_T_V = logits[-len(tokens) :].log_softmax(-1)  # virtual tokens have logits of their own in front
            logits = logprobs_T_V[:-1].gather(1, tokens[1:, None])[:, 0]
        outputs.append(logits.cpu())
    return outputs


def outputs_in_memory(model: TrainableModel, recipe: ResolvedRecipe, rows: Rows) -> Outputs:
    """Return the outputs of the trained weights in memory. The model keeps transformers' attention and peft's layers
    afterwards."""
    model.restore_layers()
    model.network.set_attn_implementation(plain_attention(model.network))
    return plain_outputs(model.model, recipe, rows)


def score(request: ScoringRequest) -> list[Outputs]:
    """Return the outputs of each model of the request, loaded as plain peft or transformers load it."""
    rows, device = rows_of(request.rows), scoring_device(request)
    outputs: list[Outputs] = []
    for files in request.models:
        if outputs:
            trim_heap()  # the next model may not fit beside the one before
        outputs.append(_outputs_of_files(files, rows, device))
    return outputs


def scoring_device(request: ScoringRequest) -> torch.device:
    return torch.device(request.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def reply_to(request: ScoringRequest) -> ScoringResult | ScoringFailure:
    """Score the models of the request in this process, which should be a fresh one."""
    use_deterministic_algorithms()  # as the trainer does
    device = scoring_device(request)
    try:
        with PeakSampler(device) as highest:
            scored = score(request)
    except Exception as error:  # the log gets the whole exception, the caller only its reason
        print_traceback(error)
        failure = as_training_error(error)
        return ScoringFailure(reason=failure.reason, message=failure.message)
    outputs = [[values.tolist() for values in rows] for rows in scored]
    return ScoringResult(outputs=outputs, device=device.type, peak_bytes=highest.bytes)


def _outputs_of_files(files: ModelFiles, rows: Rows, device: torch.device) -> Outputs:
    recipe = files.recipe
    if files.base is None:  # an adapter's merged weights are a whole model, too
        recipe = recipe.model_copy(update={"technique": Full()})
    base = None if files.base is None else Path(files.base)
    return plain_outputs(load_published(Path(files.folder), base, recipe, device), recipe, rows)


def outputs_of_gguf(file: Path, model: Path, rows: Rows, recipe: ResolvedRecipe) -> Outputs:
    """Return the outputs of a GGUF file as transformers reads it back.

    The config is taken from the folder `model`, which holds the same weights as safetensors, because transformers'
    reader of GGUF does not restore the head size of some families.
    """
    network = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=True),
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
    )
    return plain_outputs(network, recipe, rows)


def write_outputs(folder: Path, rows: Rows, outputs: Outputs, recipe: ResolvedRecipe, tolerance: Tolerance) -> None:
    """Write logprobs.json: the trained model's outputs, and how closely the files must match them on any machine."""
    tokens = recipe.method.output == "tokens"
    recorded = RecordedOutputs(
        precision=str(recipe.precision),
        tolerance=tolerance,
        rows=[
            RecordedRow(
                tokens=tokens_T.tolist(),
                logprobs=values.tolist() if tokens else None,
                scores=None if tokens else values.tolist(),
            )
            for (tokens_T, _), values in zip(rows, outputs, strict=True)
        ],
    )
    (folder / LOGPROBS).write_text(recorded.model_dump_json(exclude_none=True) + "\n")
