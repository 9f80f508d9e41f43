"""What a user takes away: a peft adapter or a whole model, with its tokenizer and a model card."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from api.recipe import ResolvedRecipe
from worker.engine.model import TrainableModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
GENERATION_CONFIG = "generation_config.json"


def export(model: TrainableModel, folder: Path, base: Path, recipe: ResolvedRecipe, metrics: dict[str, Any]) -> None:
    """Fill the folder with files that load without Attune. The same weights give the same bytes."""
    if isinstance(model.model, PeftModel):
        _write_adapter(model.model, folder, recipe.model)
    else:
        model.model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    (folder / "README.md").write_text(_model_card(recipe, metrics), encoding="utf-8")


def _write_adapter(model: PeftModel, folder: Path, base_name: str) -> None:
    """peft's two files, reproducibly: it writes sets in a random order and names the base by its local folder."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    on_cpu = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    model.peft_config["default"].save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _model_card(recipe: ResolvedRecipe, metrics: dict[str, Any]) -> str:
    adapter = recipe.technique.type != "full"
    header = {
        "base_model": recipe.model,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [
            "attune",
            recipe.technique.type,
            recipe.method.type,
            *([f"base_model:adapter:{recipe.model}"] if adapter else []),
        ],
    }
    # Every JSON value is a YAML value too, so that a name needs no other quoting.
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    settings = recipe.model_dump(mode="json", exclude={"job_id", "model", "method", "technique"})
    settings |= {f"technique.{key}": value for key, value in recipe.technique.model_dump(mode="json").items()}
    what = "adapter for" if adapter else "model made from"
    return CARD.format(
        yaml=yaml,
        what=f"{recipe.technique.type} {what} `{recipe.model}`",
        method=f"{type(recipe.method).__doc__}".strip(),
        settings=_table(settings),
        metrics=_table(metrics) if metrics else "None.",
        code=LOAD_ADAPTER if adapter else LOAD_MODEL,
    )


def _table(values: dict[str, Any]) -> str:
    rows = (f"| {name} | {json.dumps(value)} |".replace("\n", " ") for name, value in values.items())
    return "\n".join(["| | |", "|---|---|", *rows])


CARD = """---
{yaml}
---

# Fine-tuned with Attune

A {what}. {method}

```python
{code}
```

`manifest.json` lists every file with its SHA-256. `logprobs.json`, where there is one, holds a few rows of the data
with the trainer's log-probability of each token after the first: repeat the comparison, or delete it before sharing.

## Metrics

{metrics}

## Recipe

{settings}
"""

LOAD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("path/to/the/base/model")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

LOAD_MODEL = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
