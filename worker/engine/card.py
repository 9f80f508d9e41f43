"""The model card: what was made, from what, how it went, and how to load it."""

import json
from typing import Any

from api.recipe import ResolvedRecipe
from worker.techniques import TECHNIQUES

PIPELINES = {"tokens": "text-generation", "labels": "text-classification", "reward": "text-classification"}


def model_card(recipe: ResolvedRecipe, model_type: str, metrics: dict[str, Any]) -> str:
    technique, method = recipe.technique, recipe.method
    adapter = technique.type != "full"
    header = {
        "base_model": recipe.model,
        "library_name": "peft" if technique.peft_type else "transformers",
        "pipeline_tag": PIPELINES[method.output],
        "tags": [
            "attune",
            technique.type,
            method.type,
            *([f"base_model:adapter:{recipe.model}"] if adapter else []),
        ],
    }
    # Every JSON value is a YAML value too, so that a name needs no other quoting.
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    settings = recipe.model_dump(mode="json", exclude={"job_id", "model", "method", "technique"})
    settings |= {f"technique.{key}": value for key, value in technique.model_dump(mode="json").items()}
    settings |= {f"method.{key}": value for key, value in method.options.model_dump(mode="json").items()}
    what = "adapter for" if adapter else "model made from"
    return CARD.format(
        yaml=yaml,
        what=f"{technique.type} {what} `{recipe.model}`",
        technique=_sentence(technique),
        method=_sentence(method),
        settings=_table(settings),
        metrics=_table(metrics) if metrics else "None.",
        code=_code(recipe, model_type),
    )


def _sentence(entry: Any) -> str:
    return " ".join((type(entry).__doc__ or "").split())


def _code(recipe: ResolvedRecipe, model_type: str) -> str:
    """How to load it, in Python."""
    kind = "AutoModelForCausalLM" if recipe.method.output == "tokens" else "AutoModelForSequenceClassification"
    technique = recipe.technique
    if technique.type == "full":
        return LOAD_MODEL.format(kind=kind)
    arguments = ""
    if recipe.method.output != "tokens":
        names = recipe.labels.names if recipe.labels else ()
        known = f"id2label={dict(enumerate(names))!r}" if names else "num_labels=1"
        arguments = f", {known}"
    if technique.type in TECHNIQUES:
        return str(TECHNIQUES[technique.type].loading_code(model_type, kind))
    quantised = QUANTISED if technique.quantises else ""
    if quantised:
        arguments += ", quantization_config=four_bits"
    return quantised.format(type=getattr(technique, "quantisation", "")) + LOAD_ADAPTER.format(
        kind=kind, arguments=arguments
    )


def _table(values: dict[str, Any]) -> str:
    rows = (f"| {name} | {json.dumps(value)} |".replace("\n", " ") for name, value in values.items())
    return "\n".join(["| | |", "|---|---|", *rows])


CARD = """---
{yaml}
---

# Fine-tuned with Attune

A {what}.

{technique}

{method}

```python
{code}
```

`manifest.json` lists every file with its SHA-256. `logprobs.json`, where there is one, holds a few rows of the data
with what the trainer's model says of them (log-probabilities of tokens, or scores): repeat the comparison, or delete it
before sharing.

## Metrics

{metrics}

## Recipe

{settings}
"""

QUANTISED = """from transformers import BitsAndBytesConfig

four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{type}")  # as it was trained; or leave it out
"""

LOAD_ADAPTER = """from peft import PeftModel
from transformers import {kind}, AutoTokenizer

base = {kind}.from_pretrained("path/to/the/base/model"{arguments})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

LOAD_MODEL = """from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
