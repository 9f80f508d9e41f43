"""Measurements of base models, which later jobs use again instead of measuring the same model on the same rows.

In the run folder, `measured/` has the measurements of earlier jobs. They come from the same project and began with the
same model, which the supervisor ensures. A job puts its own into `out/measured/`, from where the supervisor takes it. A
file's name is a digest of everything else that decides its content, so that no file is ever out of date.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from api.spec.methods.base import Hyperparameters
from api.spec.resolve import ResolvedRecipe
from worker.engine.generation.sample_answers import GeneratedAnswer
from worker.engine.publish.versions import libraries, our_code
from worker.shared.arrays import Rows


@dataclass(frozen=True)
class Measurement:
    """Metrics and sample answers of one model."""

    metrics: dict[str, float | None]
    answers: list[GeneratedAnswer] | None
    """None if they could not be sampled."""
    references: list[list[float]] | None = None
    """[rows][width]: the reference's log-probabilities of the sequences, if the method has a reference."""


_JSON = TypeAdapter(Measurement)


def may_be_kept(recipe: ResolvedRecipe) -> bool:
    """Return whether another job may have the same base measurement. A new head is random, rewards depend on other
    models, and virtual tokens on the training text."""
    method = recipe.method
    return method.output == "tokens" and not method.rollouts and recipe.technique.virtual_tokens == 0


def measurement_name(recipe: ResolvedRecipe, rows: Rows, answer_tokens: int, device: torch.device) -> str:
    """Return the name of the file with the base model's measurement on these rows. An adapter changes nothing before
    the first step, so the technique does not matter, apart from its quantization."""
    decides = {
        "code": our_code().model_dump(),
        "libraries": libraries(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "method": [recipe.method.type, _options(recipe)],
        "precision": recipe.precision,
        "four_bits": recipe.technique.four_bits,
        "answer_tokens": answer_tokens,
        "rows": _digest_of_rows(rows),
    }
    return f"{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()}.json"


def load_measurement(run: Path, name: str, rows: Rows) -> Measurement | None:
    """Return an earlier job's measurement; None if there is none, or if its file is damaged."""
    try:
        found = _JSON.validate_json((run / "measured" / name).read_bytes())
    except (OSError, ValidationError):
        return None
    fits = found.references is None or [len(row) for row in found.references] == [rows.width] * len(rows)
    return found if fits else None


def save_measurement(run: Path, name: str, measurement: Measurement) -> None:
    folder = run / "out" / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(_JSON.dump_json(measurement))


def _options(recipe: ResolvedRecipe) -> dict[str, object]:
    """Return the method's options as JSON values, without OpenAI's three hyperparameters, which concern the training
    only. A method's own hyperparameters, such as β, are part of its loss."""
    return recipe.method.options.model_dump(mode="json", exclude={"hyperparameters": set(Hyperparameters.model_fields)})


def _digest_of_rows(rows: Rows) -> str:
    digest = hashlib.sha256(json.dumps([rows.width, (rows.ends - rows.starts).tolist()]).encode())
    for tokens_T, weights_T in rows:
        digest.update(tokens_T.tobytes() + weights_T.tobytes())
    if rows.labels is not None:
        digest.update(rows.labels.tobytes())
    return digest.hexdigest()
