"""The model card, README.md of a published folder: how to load the model, its evaluation, curves, data and recipe.

Names, labels and answers in the card are users' text. All of it passes through worker.engine.publish.markdown, which
escapes it.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from api.spec.evaluation import Evaluation, SampleAnswer
from api.spec.manifest import DataEntry, Origin
from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import Point, bars, code, fenced, number, settings, table
from worker.engine.publish.usage import Usage, usage_section
from worker.engine.publish.vllm import vllm_section
from worker.techniques import implementation_of

_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
PIPELINES = {"tokens": "text-generation", "labels": "text-classification", "reward": "text-classification"}


@dataclass(frozen=True)
class TrainingSummary:
    """Facts about the training up to the published step."""

    metrics: Mapping[str, object] = field(default_factory=dict)
    """Metrics of the last step."""
    train_curve: Sequence[Point] = ()
    valid_curve: Sequence[Point] = ()
    origin: Origin | None = None
    evaluation: Evaluation | None = None
    """None for checkpoints."""
    truncated: bool = False
    """Whether training rows were cut to the recipe's `max_length`."""


def model_card(
    recipe: ResolvedRecipe, model_type: str, summary: TrainingSummary, usage: Usage, *, experts: bool = False
) -> str:
    """Return the card as Markdown. `experts`: the adapter is on the tensors of a mixture of experts."""
    kind = "model made from" if recipe.technique.whole_model else "adapter for"
    return CARD.format(
        yaml=_header(recipe),
        kind=f"{recipe.technique.type} {kind} {code(recipe.model)}",
        technique=_docstring(recipe.technique),
        method=_docstring(recipe.method),
        loading=fenced(_loading(recipe, model_type, usage), "python"),
        usage=usage_section(recipe, usage),
        base_option="" if recipe.technique.whole_model else " --base path/to/the/base/model",
        vllm=vllm_section(recipe, experts=experts),
        evaluation=_evaluation(summary.evaluation),
        curves=_curves(summary),
        metrics=settings(summary.metrics) if summary.metrics else "None.",
        data=_data(summary.origin),
        recipe=_recipe(recipe),
    )


def _header(recipe: ResolvedRecipe) -> str:
    technique, method = recipe.technique, recipe.method
    # A hub refuses a card whose base_model is not a valid hub name, for example the name of a fine-tuned model (ft:…).
    base = {"base_model": recipe.model} if _HUB_NAME.fullmatch(recipe.model) else {}
    adapter = [f"base_model:adapter:{recipe.model}"] if base and not technique.whole_model else []
    header = {
        **base,
        "library_name": "peft" if technique.peft_type else "transformers",
        "pipeline_tag": PIPELINES[method.output],
        "tags": ["attune", technique.type, method.type, *adapter],
    }
    # JSON values are valid YAML, so names need no other quoting.
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())


def _docstring(entry: object) -> str:
    return " ".join((type(entry).__doc__ or "").split())


def _recipe(recipe: ResolvedRecipe) -> str:
    values = recipe.model_dump(mode="json", exclude={"job_id", "model", "method", "technique"})
    values |= {f"technique.{key}": value for key, value in recipe.technique.model_dump(mode="json").items()}
    values |= {f"method.{key}": value for key, value in recipe.method.options.model_dump(mode="json").items()}
    return settings(values)


def _loading(recipe: ResolvedRecipe, model_type: str, usage: Usage) -> str:
    """Return the Python code that loads the model."""
    auto_class = "AutoModelForCausalLM" if recipe.method.output == "tokens" else "AutoModelForSequenceClassification"
    technique = recipe.technique
    if technique.whole_model:
        return LOAD_MODEL.format(auto_class=auto_class)
    arguments = ""
    if recipe.method.output != "tokens":
        names = recipe.labels.names if recipe.labels else ()
        labels = f"id2label={dict(enumerate(names))!r}" if names else "num_labels=1"
        arguments = f", {labels}" + (f", pad_token_id={usage.pad_token}" if usage.pad_token is not None else "")
    if (own := implementation_of(technique)) is not None:
        return own.loading_code(model_type, auto_class, arguments)
    lines = LOAD_ADAPTER
    if (bits := technique.four_bits) is not None:
        arguments += ", quantization_config=quantization"
        lines = QUANTIZATION.format(type=bits.type, double=bits.double, skipped=list(usage.unquantized)) + lines
    if technique.loads_in_transformers and recipe.method.output == "tokens":
        lines += LOAD_IN_TRANSFORMERS
    # Not format(): labels may contain braces.
    return lines.replace("{auto_class}", auto_class).replace("{arguments}", arguments)


def _evaluation(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "No evaluation was made."
    validation = evaluation.drawn_from == "validation"
    kind = "validation rows" if validation else "training rows, since the job had no validation rows"
    names = [*evaluation.base, *(name for name in evaluation.tuned if name not in evaluation.base)]
    rows = [[code(name), number(evaluation.base.get(name)), number(evaluation.tuned.get(name))] for name in names]
    head = f"Measured on {evaluation.rows} {kind}. Base is {code(evaluation.base_model)}, before the training."
    samples = [_sample(index, sample) for index, sample in enumerate(evaluation.samples, 1)]
    return "\n\n".join([head, table(["metric", "base", "tuned"], rows), *samples])


def _sample(index: int, sample: SampleAnswer) -> str:
    parts: list[tuple[str, str | None, float | None]] = [
        ("Prompt", sample.prompt, None),
        ("The answer in the data", sample.reference, None),
        ("Base", sample.base, sample.base_reward),
        ("Tuned", sample.tuned, sample.tuned_reward),
    ]
    lines = [f"### Sample {index}"]
    for title, text, reward in parts:
        if text is not None:
            suffix = "" if reward is None else f" (reward {number(reward)})"
            lines += [f"{title}{suffix}:", fenced(text)]
    return "\n\n".join(lines)


def _curves(summary: TrainingSummary) -> str:
    parts = []
    for title, curve in (("Training loss", summary.train_curve), ("Validation loss", summary.valid_curve)):
        if curve:
            points = [[str(int(step)), number(loss if math.isfinite(loss) else None)] for step, loss in curve]
            parts.append(f"{title} {bars(curve)}\n\n{table(['step', 'loss'], points)}")
    return "\n\n".join(parts) or "None."


def _data(origin: Origin | None) -> str:
    if origin is None or origin.training is None:
        return "Unknown: the trainer was run without a job."
    files: list[tuple[str, DataEntry | None]] = [("training", origin.training), ("validation", origin.validation)]
    rows = [
        [split, code(file.file), str(file.rows), file.format or "", code(file.sha256 or "")]
        for split, file in files
        if file is not None
    ]
    parent = origin.continues
    continued = "" if parent is None else f"\n\nThe training continued the adapter of {code(parent.model)}."
    return table(["split", "file", "rows", "format", "SHA-256"], rows) + continued


CARD = """---
{yaml}
---

# Fine-tuned with Attune

A {kind}.

{technique}

{method}

## Load the model

{loading}

### Use it

{usage}

### Serve it with vLLM

{vllm}

## Verify the files

    attune adapters verify path/to/this/folder{base_option}

The command checks every file against the SHA-256 that `manifest.json` lists. If there is a `logprobs.json`, it also
loads the model and compares its outputs on a few rows (log-probabilities of tokens, or scores) with those that the
trainer recorded there. `--public-key https://SERVER` also requires that this server signed the manifest
(`manifest.sig.json`). `manifest.json` also lists the base model, the data, the recipe and the versions of the code.

**Private data.** `logprobs.json`, `evaluation.json` and the samples below contain rows of the training or validation
data. If those must stay private, delete the two files, and the samples from this README, before you share the folder.
The command accepts a folder without the two files; it reports an edited README as changed.

## Evaluation

{evaluation}

## Training curves

{curves}

## Metrics of the last step

{metrics}

## Data

{data}

## Recipe

{recipe}
"""

QUANTIZATION = """from transformers import BitsAndBytesConfig

# The base was quantized in training. The adapter also works on the base in full precision, without this.
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="{type}",
    bnb_4bit_use_double_quant={double},
    llm_int8_skip_modules={skipped},
)

"""

LOAD_ADAPTER = """from peft import PeftModel
from transformers import {auto_class}, AutoTokenizer

base = {auto_class}.from_pretrained("path/to/the/base/model"{arguments})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""

LOAD_IN_TRANSFORMERS = """

# Or with transformers' own method, which needs peft installed:
# model = {auto_class}.from_pretrained("path/to/the/base/model"{arguments})
# model.load_adapter("path/to/this/folder")"""

LOAD_MODEL = """from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
