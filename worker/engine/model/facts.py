"""Facts of a base model for the prediction of memory (api.estimate.machine_fields), read without a server and without
torch."""

import json
from pathlib import Path
from typing import cast

from api.spec.base_model import BaseModelFacts


def facts_of_base(base: Path) -> BaseModelFacts:
    """Return the facts in attune.json, which `attune models add` writes; without it, the sizes in config.json."""
    if (base / "attune.json").exists():
        facts: BaseModelFacts = json.loads((base / "attune.json").read_bytes())
        return facts
    config = json.loads((base / "config.json").read_bytes())
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    vocabulary = config.get("vocab_size") or 0
    sizes = {
        "hidden_size": hidden,
        "layers": layers,
        "vocab_size": vocabulary,
        "parameters": 12 * layers * hidden**2 + vocabulary * hidden,  # a transformer's rule of thumb
    }
    return cast(BaseModelFacts, sizes)  # the prediction has defaults for the missing facts
