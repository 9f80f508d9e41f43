"""What a user takes away: an adapter or a whole model, with its tokenizer and a model card."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from api.spec.manifest import EVALUATION
from api.spec.resolve import ResolvedRecipe
from worker.engine.model.adapters import ADAPTER_WEIGHTS
from worker.engine.model.load import load_published, take_quantised_weights
from worker.engine.model.modes import leaves_to_chance
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish.card import TrainingSummary, model_card
from worker.engine.publish.usage import Usage
from worker.rows.end_tokens import EndTokens
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
SIDE_A, SIDE_B = (re.compile(rf"\.lora_(embedding_)?{side}(\.|$)") for side in "AB")
"""The two matrices of an update, of a linear layer or an embedding."""
MERGED = "merged"
"""The folder, within what is published, of the whole model that an adapter makes of its base."""


def export(model: TrainableModel, folder: Path, base: Path, recipe: ResolvedRecipe, story: TrainingSummary) -> None:
    """Fill the folder with files that load without Attune. The same weights give the same bytes."""
    technique = recipe.technique
    if (own := implementation_of(technique)) is not None:
        own.save(model.model, technique, folder, recipe.model)
    elif isinstance(model.model, PeftModel):
        _write_adapter(model, folder, recipe.model)
    else:
        model.model.save_pretrained(folder)
        _name_dropout(base, folder)
    _copy_tokenizer(base, folder)
    config = model.network.config
    usage = Usage.of(base, recipe, getattr(config, "pad_token_id", None))
    if technique.whole_model and recipe.method.output == "tokens":
        _write_stops(folder, usage.stops)
    adapter: Any = model.model.peft_config["default"] if isinstance(model.model, PeftModel) else None
    experts = bool(getattr(adapter, "target_parameters", None))
    card = model_card(recipe, config.model_type, story, usage, experts=experts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if story.evaluation is not None:
        (folder / EVALUATION).write_text(story.evaluation.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _write_stops(folder: Path, stops: Sequence[int]) -> None:
    """Have plain `generate` stop where a finished answer ends: base models often name another token than the one that
    their chat template ends a turn with."""
    path = folder / "generation_config.json"
    config = json.loads(path.read_bytes()) if path.exists() else {}
    if stops:
        config["eos_token_id"] = list(stops) if len(stops) > 1 else stops[0]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _copy_tokenizer(base: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def _name_dropout(base: Path, folder: Path) -> None:
    """Let the published configuration name the base's own dropout, which is off in training
    (worker.engine.model.modes): whoever trains the model further with other tools decides about it."""
    path = folder / "config.json"
    published = json.loads(path.read_bytes())
    _take_chance(published, json.loads((base / "config.json").read_bytes()))
    path.write_text(json.dumps(published, indent=2, sort_keys=True) + "\n")


def _take_chance(published: dict[str, Any], given: dict[str, Any]) -> None:
    for name in [name for name, value in published.items() if leaves_to_chance(name, value)]:
        del published[name]
    published |= {name: value for name, value in given.items() if leaves_to_chance(name, value)}
    for name, value in published.items():
        if isinstance(value, dict) and isinstance(given.get(name), dict):
            _take_chance(value, given[name])


def _write_adapter(model: TrainableModel, folder: Path, base_name: str) -> None:
    """peft's two files, reproducibly: it writes sets in a random order and names the base by its local folder."""
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
    tensors: dict[str, torch.Tensor], start: dict[str, torch.Tensor], config: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An adapter that took B0 A0 out of the frozen weights, as one for the weights as they were: of twice the rank,
    [B, -B0] [A; A0]. The scale stays, so α grows with the rank (with its root, where that is what α is divided by).

    peft takes nothing out of an embedding (A0 is zero there), but reads its matrices by the same rank."""
    plain = {}
    for name, tensor in tensors.items():
        if SIDE_A.search(name):
            plain[name] = torch.cat([tensor, start[name].to(tensor)], dim=0)
        elif SIDE_B.search(name):
            plain[name] = torch.cat([tensor, -start[name].to(tensor)], dim=1)
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


def export_merged(folder: Path, base: Path, recipe: ResolvedRecipe) -> Path:
    """Add the adapter in `folder` to the base's weights and write the whole model into `folder/merged`.

    The weights are the base's as they are stored; where it was quantised, what it computed with: those in four bits.
    """
    model = load_published(folder, base, recipe, torch.device("cpu"), dtype="auto", quantised=False)
    if recipe.technique.quantizes:
        take_quantised_weights(model, base, recipe)
    _untie(model)
    merged = folder / MERGED
    model.merge_and_unload(safe_merge=True).save_pretrained(merged)
    _name_dropout(base, merged)
    _copy_tokenizer(base, merged)
    if recipe.method.output == "tokens":
        _write_stops(merged, sorted(EndTokens.load(base).stops))
    return merged


def _untie(model: Any) -> None:
    """Where the input's and the output's embeddings are one matrix, an update of one of them is none of the other's:
    merged they are two."""
    network = model.get_base_model()
    ends = [network.get_input_embeddings(), network.get_output_embeddings()]
    if None in ends or not any(hasattr(end, "base_layer") for end in ends):
        return
    into, out = (getattr(end, "base_layer", end) for end in ends)
    if into.weight is out.weight:
        out.weight = torch.nn.Parameter(out.weight.detach().clone(), requires_grad=False)
        network.config.get_text_config().tie_word_embeddings = network.config.tie_word_embeddings = False
