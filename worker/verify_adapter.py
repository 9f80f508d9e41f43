"""`python -m worker.verify_adapter FOLDER [BASE]`: compare what a job published, as plain peft
and transformers load it, with the trainer's log-probabilities in logprobs.json.

A child of `attune adapters verify`. The last line on standard output is JSON: {"rows", "greatest", "mean", "tolerance",
"device"}, or {"refused": why}. Differences are nats, or units of a score.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from api.spec.manifest import LOGPROBS, Manifest
from api.spec.manifest import NAME as MANIFEST
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import Full
from worker.engine.errors import TrainingError
from worker.engine.model.load import load_published
from worker.engine.publish.parity import said_plainly
from worker.shared.arrays import Rows


def compare(folder: Path, base: Path | None) -> dict[str, Any]:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    recipe = ResolvedRecipe.model_validate(manifest.recipe)
    if manifest.kind == "model":  # an adapter's merged weights are one, too
        recipe = recipe.model_copy(update={"technique": Full()})
    written = json.loads((folder / LOGPROBS).read_bytes())
    rows = _rows([row["tokens"] for row in written["rows"]])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    said = torch.cat(said_plainly(load_published(folder, base, recipe, device), recipe, rows))
    trained = torch.tensor([value for row in written["rows"] for value in row.get("logprobs", row.get("scores"))])
    apart = (said - trained).abs()
    return {
        "rows": len(rows),
        "greatest": float(apart.max()),
        "mean": float(apart.mean()),
        "tolerance": written["tolerance"],
        "device": device.type,
    }


def _rows(tokens: list[list[int]]) -> Rows:
    ends = np.cumsum([len(row) for row in tokens])
    joined = np.concatenate(tokens).astype(np.int32)
    return Rows(joined, np.ones(len(joined), np.float32), np.concatenate([[0], ends[:-1]]), ends)


def main(arguments: list[str]) -> int:
    folder, *base = map(Path, arguments)
    try:
        found = compare(folder, base[0] if base else None)
    except TrainingError as error:
        found = {"refused": error.message}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
