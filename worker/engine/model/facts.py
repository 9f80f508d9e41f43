"""What `settle` (api.estimate.machine) needs to know of a base model, for a trainer that is run by hand. Torch-free."""

import json
from pathlib import Path
from typing import Any


def facts_of_base(base: Path) -> dict[str, Any]:
    """attune.json where the base came through `attune models add`; else from the sizes in its config.json."""
    if (base / "attune.json").exists():
        facts: dict[str, Any] = json.loads((base / "attune.json").read_bytes())
        return facts
    config = json.loads((base / "config.json").read_bytes())
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    vocabulary = config.get("vocab_size") or 0
    return {
        "hidden_size": hidden,
        "layers": layers,
        "vocab_size": vocabulary,
        "parameters": 12 * layers * hidden**2 + vocabulary * hidden,  # a transformer's rule of thumb
    }
