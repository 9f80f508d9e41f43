"""The model card: what was made, from what, how it went, how good it is, and how to load it.

Names, labels and answers in it are other people's text: they only go through worker.engine.publish.markdown.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.spec.evaluation import Evaluation, SampleAnswer
from api.spec.manifest import DataEntry, Origin
from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import Point, bars, code, fenced, number, settings, table
from worker.engine.publish.usage import Usage, asking
from worker.engine.publish.vllm import vllm
from worker.techniques import implementation_of

_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
PIPELINES = {"tokens": "text-generation", "labels": "text-classification", "reward": "text-classification"}


@dataclass(frozen=True)
class TrainingSummary:
    """Of a training up to what is published."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """The last step's."""
    train_curve: Sequence[Point] = ()
    valid_curve: Sequence[Point] = ()
    origin: Origin | None = None
    evaluation: Evaluation | None = None
    """Of the model itself; checkpoints have none."""


def model_card(
    recipe: ResolvedRecipe, model_type: str, story: TrainingSummary, usage: Usage, *, experts: bool = False
) -> str:
    what = "model made from" if recipe.technique.whole_model else "adapter for"
    return CARD.format(
        yaml=_header(recipe),
        what=f"{recipe.technique.type} {what} {code(recipe.model)}",
        technique=_sentence(recipe.technique),
        method=_sentence(recipe.method),
        loading=fenced(_loading(recipe, model_type, usage), "python"),
        asking=asking(recipe, usage),
        vllm=vllm(recipe, experts=experts),
        evaluation=_evaluation(story.evaluation),
        curves=_curves(story),
        metrics=settings(story.metrics) if story.metrics else "None.",
        data=_data(story.origin),
        recipe=_recipe(recipe),
    )


def _header(recipe: ResolvedRecipe) -> str:
    technique, method = recipe.technique, recipe.method
    # A hub refuses a card whose base is no name that it could have, such as a fine-tuned model's of this server.
    base = {"base_model": recipe.model} if _HUB_NAME.fullmatch(recipe.model) else {}
    adapter = [f"base_model:adapter:{recipe.model}"] if base and not technique.whole_model else []
    header = {
        **base,
        "library_name": "peft" if technique.peft_type else "transformers",
        "pipeline_tag": PIPELINES[method.output],
        "tags": ["attune", technique.type, method.type, *adapter],
    }
    # Every JSON value is a YAML value too, so that a name needs no other quoting.
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())


def _sentence(entry: Any) -> str:
    return " ".join((type(entry).__doc__ or "").split())


def _recipe(recipe: ResolvedRecipe) -> str:
    values = recipe.model_dump(mode="json", exclude={"job_id", "model", "method", "technique"})
    values |= {f"technique.{key}": value for key, value in recipe.technique.model_dump(mode="json").items()}
    values |= {f"method.{key}": value for key, value in recipe.method.options.model_dump(mode="json").items()}
    return settings(values)


def _loading(recipe: ResolvedRecipe, model_type: str, usage: Usage) -> str:
    """In Python."""
    kind = "AutoModelForCausalLM" if recipe.method.output == "tokens" else "AutoModelForSequenceClassification"
    technique = recipe.technique
    if technique.whole_model:
        return LOAD_MODEL.format(kind=kind)
    arguments = ""
    if recipe.method.output != "tokens":
        names = recipe.labels.names if recipe.labels else ()
        known = f"id2label={dict(enumerate(names))!r}" if names else "num_labels=1"
        arguments = f", {known}" + (f", pad_token_id={usage.pad_token}" if usage.pad_token is not None else "")
    if (own := implementation_of(technique)) is not None:
        return own.loading_code(model_type, kind)
    lines = LOAD_ADAPTER
    if technique.four_bits is not None:
        arguments += ", quantization_config=four_bits"
        lines = QUANTISED.format(type=technique.four_bits.type) + lines
    if technique.loads_in_transformers and recipe.method.output == "tokens":
        lines += LOAD_IN_TRANSFORMERS
    return lines.replace("{kind}", kind).replace("{arguments}", arguments)  # labels may hold braces


def _evaluation(found: Evaluation | None) -> str:
    if found is None:
        return "None was made."
    where = "validation rows" if found.drawn_from == "validation" else "training rows, as there were no others"
    names = [*found.base, *(name for name in found.tuned if name not in found.base)]
    rows = [[code(name), number(found.base.get(name)), number(found.tuned.get(name))] for name in names]
    parts = [f"On {found.rows} {where}. Base is {code(found.base_model)}.", table(["", "base", "tuned"], rows)]
    return "\n\n".join([*parts, *(_sample(number, each) for number, each in enumerate(found.samples, 1))])


def _sample(place: int, sample: SampleAnswer) -> str:
    parts: list[tuple[str, str | None, float | None]] = [
        ("Prompt", sample.prompt, None),
        ("The row's own answer", sample.reference, None),
        ("Base", sample.base, sample.base_reward),
        ("Tuned", sample.tuned, sample.tuned_reward),
    ]
    lines = [f"### Sample {place}"]
    for title, text, reward in parts:
        if text is not None:
            judged = "" if reward is None else f" (reward {number(reward)})"
            lines += [f"{title}{judged}:", fenced(text)]
    return "\n\n".join(lines)


def _curves(story: TrainingSummary) -> str:
    parts = []
    for title, curve in (("Training loss", story.train_curve), ("Validation loss", story.valid_curve)):
        if curve:
            points = [[str(int(step)), number(loss if math.isfinite(loss) else None)] for step, loss in curve]
            parts.append(f"{title} {bars(curve)}\n\n{table(['step', 'loss'], points)}")
    return "\n\n".join(parts) or "None."


def _data(origin: Origin | None) -> str:
    if origin is None or origin.training is None:
        return "Unknown: the trainer was run by hand."
    files: list[tuple[str, DataEntry | None]] = [("training", origin.training), ("validation", origin.validation)]
    rows = [
        [part, code(file.file), str(file.rows), file.format or "", code(file.sha256 or "")]
        for part, file in files
        if file is not None
    ]
    continued = "" if origin.continues is None else f"\n\nIt goes on from {code(origin.continues.model)}."
    return table(["", "file", "rows", "format", "SHA-256"], rows) + continued


CARD = """---
{yaml}
---

# Fine-tuned with Attune

A {what}.

{technique}

{method}

## Loading it

{loading}

### Asking it

{asking}

### vLLM

{vllm}

## Is it what was trained?

    attune adapters verify path/to/this/folder --base path/to/the/base/model

`manifest.json` says what this was made from, and lists every file with its SHA-256. `logprobs.json`, where there is
one, holds a few rows of the data with what the trainer's model says of them (log-probabilities of tokens, or scores):
the command repeats the comparison. It and `evaluation.json`, and the samples below, hold rows of the data: delete them
before sharing what must not be seen.

## Evaluation

{evaluation}

## Curves

{curves}

## Metrics of the last step

{metrics}

## Data

{data}

## Recipe

{recipe}
"""

QUANTISED = """from transformers import BitsAndBytesConfig

four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{type}")  # as it was trained; or leave it out
"""

LOAD_ADAPTER = """from peft import PeftModel
from transformers import {kind}, AutoTokenizer

base = {kind}.from_pretrained("path/to/the/base/model"{arguments})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

LOAD_IN_TRANSFORMERS = """

# The same by transformers' own method (which imports peft):
# model = {kind}.from_pretrained("path/to/the/base/model"{arguments})
# model.load_adapter("path/to/this/folder")"""

LOAD_MODEL = """from transformers import {kind}, AutoTokenizer

model = {kind}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
