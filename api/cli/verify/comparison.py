"""A published model's outputs on this machine, compared with those that its trainer recorded."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from api.spec.manifest import LOGPROBS, Manifest
from api.spec.resolve import ResolvedRecipe
from api.spec.scoring import (
    SCORING_REPLY,
    ModelFiles,
    RecordedOutputs,
    ScoringFailure,
    ScoringRequest,
    ScoringResult,
    Tolerance,
)

MAX_ERROR_CHARS = 300


class NotComparable(Exception):
    """The files could not be loaded and scored. The message is the reason."""


class Comparison(BaseModel):
    rows: int
    greatest: float
    """Largest difference: in nats for log-probabilities, in their own unit for scores."""
    mean: float
    tolerance: Tolerance
    """Allowed differences, as the trainer recorded them."""
    device: str
    agrees: bool


def can_load_models() -> bool:
    """Return whether torch is installed here. Loading a model needs torch."""
    return importlib.util.find_spec("torch") is not None


def compare(folder: Path, manifest: Manifest, base: Path | None) -> Comparison:
    """Run the published model on the rows that its trainer recorded, and compare the outputs with the recorded ones.

    `base`: folder of the base model, if the published model is an adapter. Raises NotComparable if the model cannot be
    run, or if it has another number of outputs than recorded.
    """
    try:
        recorded = RecordedOutputs.model_validate_json((folder / LOGPROBS).read_bytes())
        recipe = ResolvedRecipe.model_validate(manifest.recipe)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotComparable(f"{LOGPROBS} or the recipe is not readable here: {where}: {first['msg']}") from None
    on_base = str(base) if base is not None and manifest.kind == "adapter" else None
    files = ModelFiles(folder=str(folder), base=on_base, recipe=recipe)
    result = _score(ScoringRequest(models=[files], rows=[row.tokens for row in recorded.rows]))
    published = np.concatenate([np.array(values, np.float32) for values in result.outputs[0]])
    trained = np.concatenate([np.array(row.logprobs or row.scores, np.float32) for row in recorded.rows])
    if published.shape != trained.shape:
        raise NotComparable(f"the model has {len(published)} outputs, but {LOGPROBS} records {len(trained)}")
    difference = np.abs(published - trained)
    measured = {"greatest": float(difference.max()), "mean": float(difference.mean())}
    return Comparison(
        rows=len(recorded.rows),
        greatest=measured["greatest"],
        mean=measured["mean"],
        tolerance=recorded.tolerance,
        device=result.device,
        agrees=all(measured[name] <= allowed for name, allowed in recorded.tolerance.items()),  # false for NaN, too
    )


def _score(request: ScoringRequest) -> ScoringResult:
    """Load and score the files in a child process, because this process has no torch. Raises NotComparable if that
    fails."""
    command = [sys.executable, "-m", "worker.score_files"]
    done = subprocess.run(command, input=request.model_dump_json(), capture_output=True, text=True, check=False)
    last_error = (done.stderr.strip().splitlines() or ["the scoring process printed nothing"])[-1][:MAX_ERROR_CHARS]
    if done.returncode != 0 or not done.stdout:
        raise NotComparable(last_error)
    reply = SCORING_REPLY.validate_json(done.stdout.splitlines()[-1])
    if isinstance(reply, ScoringFailure):
        # The message of an internal failure is for users of a server. Here the exception itself is more helpful.
        raise NotComparable(last_error if reply.reason == "internal" else reply.message)
    return reply
