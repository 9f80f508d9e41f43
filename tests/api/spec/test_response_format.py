"""Schemas that an answer can be held to, and those that are refused by their paths."""

import re
from functools import reduce
from typing import Any, cast

import pytest

from api.spec.response_format import MAX_SCHEMA_BYTES, checked_schema


def array(depth: int) -> Any:
    """Arrays within each other."""
    return reduce(lambda inner, _: [inner], range(depth), cast(Any, 0))


def inside(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    return schema if depth == 0 else {"type": "array", "items": inside(schema, depth - 1)}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"items": {"not": {}}}}}, "properties.a.items.not is not supported"),
        ({"anyOf": [{"type": "string"}, {"maxlength": 3}]}, "anyOf[1].maxlength is not supported"),
        ({"x-guidance": {"lenient": True}}, "x-guidance is not supported"),
        ({"$defs": {"a": {"type": "text"}}}, "$defs.a.type is not one of"),
        ({"required": "a"}, "required must be an array of names"),
        ({"properties": {"a": "string"}}, "properties.a must be a schema"),
        ({"anyOf": []}, "anyOf must be an array"),
        ({"properties": []}, "properties must be an object"),
        (inside({}, 40), "nested more than 32"),
        ({"description": "a" * MAX_SCHEMA_BYTES}, "bytes"),
        ({"default": array(120)}, "nested more than 100"),
        ({"type": "integer", "multipleOf": 99999989}, "multipleOf is too costly"),
        ({"allOf": [{"multipleOf": 499}, {"multipleOf": 4.91}]}, "multipleOf is too costly"),
    ],
)
def test_a_schema_is_refused_by_the_path_of_what_is_wrong(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checked_schema(schema)


def test_what_clients_write_is_taken() -> None:
    schema = {
        "$defs": {"step": {"type": "object", "title": "Step", "properties": {"text": {"type": "string"}}}},
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "maxItems": 9},
            "price": {"anyOf": [{"type": "number", "multipleOf": 0.01}, {"type": "null"}], "default": None},
        },
        "required": ["steps", "price"],
        "additionalProperties": False,
    }
    assert checked_schema(schema) is schema
