"""200 answers of a real model that are held to JSON Schemas, and its free answers to the same prompts: `make soak`."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from api.spec.evals.item_schema import validator
from api.spec.sampling import SamplerJob
from tests.worker.sampling.asking import CPU, run, serving
from worker.sampling.bases import LoadedBase, ModelSource
from worker.shared.reports import FinishedReport, SamplerReport, TextReport

TOPICS = ("a harbor", "an old library", "a mountain hut", "a night train")
ANSWERS = 5
"""Answers to each prompt."""
MAX_TOKENS = 160
"""The lengths in the schemas are bounded so that a valid answer ends before."""

NAME = {"type": "string", "maxLength": 24}
COUNT = {"type": "integer", "minimum": 0, "maximum": 999}
PRICE = {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.25}


def an_object(*optional: str, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object without other properties."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def an_array(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": an_object(name=NAME, visitors=COUNT, open={"type": "boolean"}),
    "nested": an_object(name=NAME, place=an_object(city=NAME, position=an_object(row=COUNT, column=COUNT))),
    "strings": an_object(words=an_array({"type": "string", "maxLength": 12}, 2, 4)),
    "objects": an_object(parts=an_array(an_object(name=NAME, count=COUNT), 1, 3)),
    "enums": an_object(color={"enum": ["red", "green", "dark blue"]}, size={"enum": [1, 2, 3, None]}),
    "numbers": an_object(price=PRICE, balance={"type": "integer", "minimum": -50, "exclusiveMaximum": 50}),
    "optional": an_object("owner", "year", name=NAME, owner=NAME, year={"type": "integer", "minimum": 1900}),
    "references": {"$defs": {"person": an_object(name=NAME, age=COUNT)}}
    | an_object(owner={"$ref": "#/$defs/person"}, guests=an_array({"$ref": "#/$defs/person"}, 0, 2)),
    "union": an_object(
        found={"anyOf": [an_object(kind={"const": "visit"}, days=COUNT), an_object(kind={"const": "note"}, text=NAME)]},
        remark={"type": ["string", "null"], "maxLength": 20},
    ),
    "rows": an_array({"type": "array", "prefixItems": [NAME, COUNT], "items": False, "minItems": 2}, 1, 3),
}


@pytest.mark.soak
def test_each_answer_is_valid_for_its_schema_and_few_free_ones_are(smollm2: Path) -> None:
    base = LoadedBase(ModelSource(smollm2), CPU, torch.float32)
    held = counts(base, smollm2, held=True)
    print(f"held to the schema: {dict(held)}", flush=True)
    free = counts(base, smollm2, held=False)
    print(f"free: {dict(free)}", flush=True)
    assert held == {"valid": len(SCHEMAS) * len(TOPICS) * ANSWERS}
    assert free["valid"] < held["valid"] / 2


def counts(base: LoadedBase, folder: Path, *, held: bool) -> Counter[str]:
    """Return the number of valid, invalid and cut answers. A cut one has not ended within MAX_TOKENS."""
    texts: dict[tuple[str, int], str] = {}
    ends: dict[tuple[str, int], str] = {}

    def report(given: SamplerReport) -> None:
        if isinstance(given, TextReport):
            texts[given.id, given.index] = texts.get((given.id, given.index), "") + given.text
        elif isinstance(given, FinishedReport):
            ends[given.id, given.index] = given.reason

    server = serving(base, report, places=64, cache_tokens=1 << 20)
    for number, (name, topic) in enumerate((name, topic) for name in SCHEMAS for topic in TOPICS):
        server.submit(request(folder, name, topic, seed=number, held=held))
    run(server)
    assert len(ends) == len(SCHEMAS) * len(TOPICS) * ANSWERS
    outcomes = {key: outcome(SCHEMAS[key[0].partition("/")[0]], texts.get(key, ""), end) for key, end in ends.items()}
    for key, found in outcomes.items():
        if held and found != "valid":
            print(f"{key} is {found}: {texts.get(key)}", flush=True)
    return Counter(outcomes.values())


def request(folder: Path, name: str, topic: str, *, seed: int, held: bool) -> SamplerJob:
    schema = SCHEMAS[name]
    keys = ", ".join(schema.get("properties", {"name": {}, "count": {}}))
    question = f"Describe {topic} in JSON with: {keys}. Answer with JSON only."
    shape: Any = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
    return SamplerJob(
        id=f"{name}/{topic}",
        base=str(folder),
        messages=[{"role": "user", "content": question}],
        n=ANSWERS,
        max_tokens=MAX_TOKENS,
        temperature=1,
        top_p=1,
        seed=seed,
        response_format=shape if held else None,
    )


def outcome(schema: dict[str, Any], text: str, end: str) -> str:
    if end != "stop":
        return "cut"
    try:
        return "valid" if validator(schema).is_valid(json.loads(text)) else "invalid"
    except ValueError:
        return "invalid"
