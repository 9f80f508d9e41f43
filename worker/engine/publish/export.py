"""Export: an adapter or a whole model as files that load without Attune, with its tokenizer and a model card."""

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from api.spec.manifest import EVALUATION
from api.spec.resolve import ResolvedRecipe
from worker.engine.model.adapters import ADAPTER_WEIGHTS
from worker.engine.model.modes import is_random_strength
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish.card import TrainingSummary, model_card
from worker.engine.publish.usage import Usage
from worker.techniques import implementation_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
FACTOR_A, FACTOR_B = (re.compile(rf"\.lora_(embedding_)?{factor}(\.|$)") for factor in "AB")
"""Names of the two factors of a low-rank update, of a linear layer or an embedding."""
MERGED = "merged"
"""Subfolder of the published folder that holds the whole model: the base with the adapter merged into it."""


def export(model: TrainableModel, folder: Path, base: Path, recipe: ResolvedRecipe, summary: TrainingSummary) -> None:
    """Fill the folder with files that load without Attune. The same weights give the same bytes."""
    technique = recipe.technique
    if (own := implementation_of(technique)) is not None:
        own.save(model.model, technique, folder, recipe.model)
    elif isinstance(model.model, PeftModel):
        _write_adapter(model, folder, recipe.model)
    else:
        model.model.save_pretrained(folder)
        name_dropout(base, folder)
    copy_tokenizer(base, folder)
    config = model.network.config
    usage = Usage.of(base, recipe, config, truncated=summary.truncated)
    if technique.whole_model and recipe.method.output == "tokens":
        write_stops(folder, usage.stops)
    adapter = model.model.peft_config["default"] if isinstance(model.model, PeftModel) else None
    experts = bool(getattr(adapter, "target_parameters", None))
    card = model_card(recipe, config.model_type, summary, usage, experts=experts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if summary.evaluation is not None:
        (folder / EVALUATION).write_text(summary.evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")


def write_stops(folder: Path, stops: Sequence[int]) -> None:
    """Make plain `generate` stop at the end of an answer.

    A base model's generation_config.json often names a different end token than its chat template writes.
    """
    path = folder / "generation_config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    if stops:
        config["eos_token_id"] = list(stops) if len(stops) > 1 else stops[0]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def copy_tokenizer(base: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def name_dropout(base: Path, folder: Path) -> None:
    """Write the base's own dropout into the published config.json.

    Training turns it off (worker.engine.model.modes), but other tools that train the model further expect it.
    """
    path = folder / "config.json"
    published = json.loads(path.read_bytes())
    _copy_dropout(published, json.loads((base / "config.json").read_bytes()))
    path.write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def _copy_dropout(published: dict[str, object], base: Mapping[str, object]) -> None:
    for name in [name for name, value in published.items() if is_random_strength(name, value)]:
        del published[name]
    published |= {name: value for name, value in base.items() if is_random_strength(name, value)}
    for name, value in published.items():
        if isinstance(value, dict) and isinstance(part := base.get(name), dict):
            _copy_dropout(value, part)


def _write_adapter(model: TrainableModel, folder: Path, base_name: str) -> None:
    """Write peft's two files so that the same weights give the same bytes.

    peft itself writes sets in a random order, and names the base by its local folder.
    """
    tensors = get_peft_model_state_dict(model.model, save_embedding_layers=False)
    model.model.peft_config["default"].save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    if model.extras:
        tensors, config = _as_plain_lora(tensors, model.extras, config)
    on_cpu = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _as_plain_lora(
    tensors: dict[str, torch.Tensor], initial: dict[str, torch.Tensor], config: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return (tensors, config) of an equivalent adapter for the untouched base, with twice the rank.

    PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) subtract the initial update B0 A0 from the frozen weights, so
    that training starts at the base model. On the untouched base W the trained model is W + s (B A - B0 A0), which is
    the adapter [B, -B0] [A; A0]. The scale s must stay although the rank r doubles: for α / r, α is doubled; for
    rsLoRA's α / √r, α is multiplied by √2.

    peft subtracts nothing from an embedding (A0 is zero there), but expects its factors to have the same rank.
    """
    plain = {}
    for name, tensor in tensors.items():
        if FACTOR_A.search(name):
            plain[name] = torch.cat([tensor, initial[name].to(tensor)], dim=0)
        elif FACTOR_B.search(name):
            plain[name] = torch.cat([tensor, -initial[name].to(tensor)], dim=1)
        else:
            plain[name] = tensor
    growth = math.sqrt(2) if config["use_rslora"] else 2
    return plain, config | {
        "r": 2 * config["r"],
        "lora_alpha": growth * config["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in config["rank_pattern"].items()},
        "alpha_pattern": {name: growth * alpha for name, alpha in config["alpha_pattern"].items()},
        "init_lora_weights": True,
    }
