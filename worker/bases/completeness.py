"""A base model's weights against its configuration: transformers finds every tensor, each of the shape it expects."""

from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoModelForCausalLM

from api.spec.base_model import ModelKind
from worker.bases.files import Refused

POOLER = "pooler."
"""A head that many encoders are published without; classifiers that need it train it."""


def require_complete(folder: Path, kind: ModelKind) -> None:
    """Load the model onto the meta device, which reads shapes and no data. Names on disk may be those of older versions
    of transformers, or experts one by one: only its own loading knows them all.

    Raises Refused if a weight is missing or has another shape.
    """
    auto: Any = AutoModelForCausalLM if kind == "causal_lm" else AutoModel
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
        raise Refused(f"tensor {name} has shape {list(stored)}, but config.json makes it {list(expected)}")
    require_none_missing(loading["missing_keys"])


def require_none_missing(names: set[str]) -> None:
    missing = sorted(name for name in names if POOLER not in name)
    if missing:
        more = f", nor are {len(missing) - 1} others" if len(missing) > 1 else ""
        raise Refused(f"tensor {missing[0]}, which config.json asks for, is not among its weights{more}")
