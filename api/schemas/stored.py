"""The OpenAPI schemas of stored JSON that responses pass on unchanged.

A job shows what its row holds. Rows of earlier releases may lack newer fields and hold older ones, so responses do not
validate stored JSON. /openapi.json describes this JSON by the classes that write it today, and requires no field but
the `type` of a method, a technique and similar objects.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, WithJsonSchema

from api.schemas.common import Memory
from api.spec.evals.criteria import Criterion
from api.spec.evals.run_source import RunSource
from api.spec.fields import JsonObject
from api.spec.methods import Hyperparameters, Method
from api.spec.outputs import Export, Integration
from api.spec.recipe import Recipe, Resources, Training
from api.spec.techniques import Technique

StoredJson = dict[str, object]
"""Stored JSON that a response passes on unread and unchecked."""

REFERENCE = "x-stored"
"""The key of a placeholder in a response's schema, which is replaced by a reference to one of `STORED`."""

_MODE: Literal["serialization"] = "serialization"

_NULLABLE = {"eval_every", "eval_interval"}
"""Fields whose "auto" becomes null if there is no validation data."""

_KEYWORDS = {"type", "title", "description", "const", "enum", "discriminator", "$ref"}
"""Keywords of JSON Schema that stay in the schemas of stored JSON. Bounds are removed, because they hold for requests,
and a resolved value may lie outside them."""


class ResolvedTraining(Training):
    """The training options. Once the job's rows are prepared, a number replaces each "auto" that depends on the
    rows."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int


class Predicted(BaseModel):
    """The predicted cost of training on the worker that trains the job."""

    precision: str
    gradient_checkpointing: bool
    micro_batch_tokens: int
    trained_parameters: int
    memory: Memory
    fits: bool | None
    training_s: float
    seconds: float
    measured: bool
    flops: float
    passes: float


class Actual(BaseModel):
    """The measured cost of training. Times are in seconds, memory in bytes."""

    peak_bytes: int | None
    peaks: dict[str, int | None]
    """Peak memory by phase."""
    processor_s: dict[str, float]
    """Processor time by phase."""
    seconds: float
    training_s: float


class JobEstimate(BaseModel):
    """The predicted cost of training, and the actual cost. `actual` is null until the job succeeds."""

    predicted: Predicted
    actual: Actual | None


class Progress(BaseModel):
    """Optimizer steps, and the current phase."""

    step: int
    total_steps: int
    phase: str
    """`loading` of the base model, `training`, `evaluating`, `saving` of a state, `comparing` with the base model,
    `exporting`, `verifying` of the published files, `storing`."""
    learning_rate: float | None
    """Learning rate of the last step; null before the first."""


class Finding(BaseModel):
    """A problem of a row. `line` is null for a problem of the whole file."""

    line: int | None
    severity: Literal["error", "warning"]
    code: str
    message: str


class Metrics(BaseModel):
    """The metrics of one optimizer step. Methods add metrics of their own. Null stands for NaN or infinity."""

    step: int
    total_steps: int
    train_loss: float | None


STORED: Mapping[str, Any] = {
    "Criterion": Criterion,
    "Export": Export,
    "Finding": Finding,
    "Hyperparameters": Hyperparameters,
    "Integration": Integration,
    "JobEstimate": JobEstimate,
    "Method": Method,
    "Metrics": Metrics,
    "Progress": Progress,
    "Recipe": Recipe,
    "Resources": Resources,
    "ResolvedTraining": ResolvedTraining,
    "RunSource": RunSource,
    "Technique": Technique,
}
"""{name of a schema: class that describes the JSON}. In /openapi.json, each name ends in "Object"."""


def stored(name: str) -> WithJsonSchema:
    """Return the annotation of a response's field that passes on stored JSON. `name`: a key of STORED."""
    assert name in STORED, name
    return WithJsonSchema({REFERENCE: name})


def with_stored_schemas(schemas: JsonObject) -> JsonObject:
    """Return the schemas of /openapi.json with the schemas of stored JSON added. Each placeholder (REFERENCE) is
    replaced by a reference to one of these."""
    adapters = [(name, _MODE, TypeAdapter(written_by)) for name, written_by in STORED.items()]
    roots, definitions = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}Object")
    generated = {name: _relaxed(schema) for name, schema in definitions["$defs"].items()}
    generated |= {name: _relaxed(roots[name, _MODE]) for name in STORED if name not in generated}
    named = {f"{name}Object": schema for name, schema in generated.items()}
    assert not named.keys() & schemas.keys(), named.keys() & schemas.keys()
    return {name: _with_references(schema) for name, schema in schemas.items()} | named


def _relaxed(schema: JsonObject) -> JsonObject:
    """Return the schema without bounds, defaults and required fields, open to further fields."""
    relaxed: JsonObject = {}
    for keyword, value in schema.items():
        if keyword in _KEYWORDS:
            relaxed[keyword] = value
        elif keyword == "properties":
            relaxed[keyword] = {name: _relaxed(field) for name, field in value.items()}
            for name in _NULLABLE & value.keys():
                relaxed[keyword][name] = {"anyOf": [relaxed[keyword][name], {"type": "null"}]}
            relaxed |= {"required": ["type"]} if "const" in value.get("type", {}) else {}
        elif keyword in ("anyOf", "oneOf", "allOf"):
            relaxed[keyword] = [_relaxed(member) for member in value]
        elif keyword in ("items", "additionalProperties") and isinstance(value, dict):
            relaxed[keyword] = _relaxed(value)
    return relaxed


def _with_references(node: object) -> object:
    match node:
        case {"x-stored": name}:
            return {"$ref": f"#/components/schemas/{name}Object"}
        case dict():
            return {key: _with_references(value) for key, value in node.items()}
        case list():
            return [_with_references(value) for value in node]
    return node
