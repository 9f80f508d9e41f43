"""The fields, values and defaults of a JSON Schema, as people read them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

MAX_ALTERNATIVES = 8
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Field:
    name: str
    """Dotted name: the names of the enclosing objects, then the field's own, such as `method.dpo.loss`."""
    values: str
    default: str
    """Default value as text. Empty for a field without a default; "required" for one that must be given."""
    description: str


def fields_of(schema: Schema, prefix: str) -> Iterator[Field]:
    """Yield the fields of an object. An inner object is replaced by its own fields."""
    definitions = schema.get("$defs", {})
    for name, own in schema.get("properties", {}).items():
        value = _resolved(own, definitions)
        dotted = f"{prefix}.{name}"
        if value.get("properties"):
            yield from fields_of({**value, "$defs": definitions}, dotted)
            continue
        default = str(value["default"]).lower() if isinstance(value.get("default"), bool) else value.get("default", "")
        if name in schema.get("required", []):
            default = "required"
        description = " ".join(str(value.get("description", "")).split())
        yield Field(dotted, _values(value, definitions), "null" if default is None else str(default), description)


def default_of(schema: Schema) -> dict[str, Any]:
    """Return the object with the default of each field that has one."""
    definitions = schema.get("$defs", {})
    document = {}
    for name, own in schema.get("properties", {}).items():
        value = _resolved(own, definitions)
        if value.get("properties"):
            document[name] = default_of({**value, "$defs": definitions})
        elif "default" in value:
            document[name] = value["default"]
    return document


def _resolved(schema: Schema, definitions: Schema) -> Schema:
    """Return the schema merged with the definition that it refers to. The schema's own entries have precedence."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return {**definitions[reference.rpartition("/")[2]], **schema, "$ref": None}


def _values(schema: Schema, definitions: Schema) -> str:
    """Return the allowed values, such as `auto | integer ≥ 1, ≤ 50`."""
    schema = _resolved(schema, definitions)
    alternatives = schema.get("oneOf") or schema.get("anyOf")
    if alternatives:
        texts = [_values(alternative, definitions) for alternative in alternatives][:MAX_ALTERNATIVES]
        return " | ".join(dict.fromkeys(texts))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    bounds = [f"{sign} {schema[name]:g}" for name, sign in BOUNDS.items() if name in schema]
    return " ".join([str(schema.get("type", "any")), ", ".join(bounds)]).strip()
