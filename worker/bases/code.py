"""Base models that come with Python code of their own, which is never executed."""

import json
from pathlib import Path

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from worker.bases.files import NEEDS_CODE, Refused, read_object


def leave_out_code(folder: Path) -> None:
    """Remove `auto_map`, which names the code, from config.json if transformers has the same class itself. Phi-3 and
    Falcon were published before transformers had theirs. Raise Refused if transformers has no such class."""
    config = read_object(folder / "config.json")
    if "auto_map" not in config:
        return
    family, named = str(config.get("model_type")), config.get("architectures") or []
    classes = [names.get(family) for names in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES)]
    if not any(name in named for name in classes if name is not None):
        raise Refused(f"config.json has an auto_map: {NEEDS_CODE}")
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
