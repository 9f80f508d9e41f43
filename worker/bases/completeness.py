"""A check that a base model has every tensor that its configuration needs, each with the expected shape."""

from pathlib import Path

from transformers import AutoModel, AutoModelForCausalLM

from api.spec.base_model import ModelKind
from worker.bases.files import Refused
from worker.engine.model.families import AutoClass

POOLER = "pooler."
"""Part of the names of the pooler's tensors. Many published encoders lack this head; classifiers that need a pooler
train it."""


def require_complete(folder: Path, kind: ModelKind) -> None:
    """Raise Refused if a weight is missing or has another shape than config.json requires.

    The model is loaded onto the meta device, which reads shapes and no data. Transformers compares the names, because
    only its loading code knows the names that older versions gave to tensors, or to the weights of single experts.
    """
    auto: AutoClass = AutoModelForCausalLM if kind == "causal_lm" else AutoModel
    _, loading = auto.from_pretrained(
        folder,
        device_map="meta",
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # reported below instead of raised
        output_loading_info=True,
    )
    for name, stored, expected in sorted(loading["mismatched_keys"]):
        raise Refused(f"tensor {name} has shape {list(stored)}, but config.json requires {list(expected)}")
    require_none_missing(loading["missing_keys"])


def require_none_missing(names: set[str]) -> None:
    """Raise Refused if tensors other than a pooler's are missing."""
    missing = sorted(name for name in names if POOLER not in name)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise Refused(f"config.json requires tensors that the weights lack: {missing[0]}{more}")
