"""The format of an answer (OpenAI's `response_format`), and the JSON Schemas that can be enforced in answers."""

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from api.spec.fields import JsonObject, StrictModel

MAX_SCHEMA_BYTES = 64 << 10
"""Maximum size of a schema as JSON, in bytes. Checking a schema and building its grammar take time in proportion to its
size."""
MAX_SCHEMA_DEPTH = 32
"""Maximum depth of nested schemas."""
MAX_DEPTH = 100
"""Maximum depth of nested objects and arrays."""
MAX_MULTIPLE = 1000
"""Maximum least common multiple of all `multipleOf` in a schema, without their decimal points: 0.25 counts as 25. A
grammar for such numbers can have as many states."""
MAX_MULTIPLES = 10
"""Maximum number of `multipleOf` in a schema."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

_ONE = frozenset({"additionalProperties", "items"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"$defs", "definitions", "patternProperties", "properties"})
_RULES = frozenset(
    {
        *("$ref", "type", "enum", "const", "required", "minProperties", "maxProperties", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)
_NOTES = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
)
KEYWORDS = _ONE | _LISTS | _NAMED | _RULES | _NOTES
"""The supported keywords: those that a grammar enforces, and those that restrict nothing."""
_MULTIPLES = (
    f"a schema may have {MAX_MULTIPLES} multipleOf, and their least common multiple may be {MAX_MULTIPLE} "
    "(without decimal points: 0.25 counts as 25)"
)
TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})


def checked_schema(schema: JsonObject) -> JsonObject:
    """Return the schema. Raise ValueError, with the keyword's path, if a keyword cannot be enforced in answers.

    This check is cheap and does not find every problem: the sampler's child process builds the grammar, and may still
    refuse the schema.
    """
    check_size(schema, MAX_SCHEMA_BYTES)
    multiples: list[int] = []
    for path, part in _subschemas(schema):
        _check_keywords(path, part)
        multiples += _states(part.get("multipleOf"))
        if len(multiples) > MAX_MULTIPLES or math.lcm(*multiples) > MAX_MULTIPLE:
            raise ValueError(f"{_join(path, 'multipleOf')} is too costly: {_MULTIPLES}")
    return schema


def text_rules(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield each rule for texts (`pattern`, `format`, a key of `patternProperties`) of a checked schema: its path, and
    a schema that holds only this rule."""
    for path, part in _subschemas(schema):
        for keyword in ("pattern", "format"):
            if keyword in part:
                yield _join(path, keyword), {"type": part.get("type", "string"), keyword: part[keyword]}
        for pattern in part.get("patternProperties", {}):
            yield _join(_join(path, "patternProperties"), pattern), {"type": "string", "pattern": pattern}


def _subschemas(schema: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the schema and the schemas in it, except booleans, with their paths. Raise ValueError for a part that is no
    schema or is nested too deeply."""
    left: list[tuple[str, object, int]] = [("", schema, 1)]
    while left:
        path, part, depth = left.pop()
        if isinstance(part, bool):
            continue
        if not isinstance(part, dict):
            raise ValueError(f"{path or 'the schema'} must be a schema: an object or a boolean")
        if depth > MAX_SCHEMA_DEPTH:
            raise ValueError(f"{path[:200]}… is nested more than {MAX_SCHEMA_DEPTH} schemas deep")
        yield path, part
        left += [(inside, value, depth + 1) for inside, value in _parts(path, part)]


def check_size(value: object, most_bytes: int) -> None:
    """Raise ValueError if the value is nested too deeply, or too long as JSON."""
    left = [(value, 1)]
    while left:
        part, depth = left.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        left += [(inside, depth + 1) for inside in parts]
    size = len(json.dumps(value))
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes as JSON, more than {most_bytes}")


def _check_keywords(path: str, schema: JsonObject) -> None:
    for keyword in schema:
        if keyword not in KEYWORDS:
            raise ValueError(f"{_join(path, keyword)} is not supported: this keyword cannot be enforced in answers")
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in TYPES:
            raise ValueError(f"{_join(path, 'type')} is not one of {', '.join(sorted(TYPES))}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise ValueError(f"{_join(path, 'required')} must be an array of names")


def _states(multiple: object) -> list[int]:
    """Return, in a list, the number of states of a grammar for multiples of this number, such as 25 for 0.25. The list
    is empty if the value is not a number."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        return []
    number = abs(Decimal(str(multiple)).normalize())
    return [int(max(number, number.scaleb(-int(number.as_tuple().exponent)))) or 1]


def _parts(path: str, schema: JsonObject) -> Iterator[tuple[str, object]]:
    """Yield the schemas directly inside a schema, with their paths."""
    for keyword, value in schema.items():
        here = _join(path, keyword)
        if keyword in _ONE:
            yield here, value
        elif keyword in _LISTS:
            if not isinstance(value, list) or not value:
                raise ValueError(f"{here} must be an array with at least one schema")
            yield from ((f"{here}[{index}]", entry) for index, entry in enumerate(value))
        elif keyword in _NAMED:
            if not isinstance(value, dict):
                raise ValueError(f"{here} must be an object of schemas")
            yield from ((_join(here, name), entry) for name, entry in value.items())


def _join(path: str, name: str) -> str:
    return f"{path}.{name[:64]}" if path else name[:64]


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("must be 1 to 64 letters, digits, underscores and hyphens")
    return name


Schema = Annotated[JsonObject, AfterValidator(checked_schema)]
Name = Annotated[str, AfterValidator(_checked_name)]


class JsonSchema(StrictModel):
    model_config = ConfigDict(serialize_by_alias=True)

    name: Name
    description: str | None = None
    schema_: Schema = Field(alias="schema")
    strict: bool | None = None
    """Has no effect: the schema is always enforced."""


class JsonSchemaFormat(StrictModel):
    """Answers are JSON that is valid for the schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class JsonObjectFormat(StrictModel):
    """Answers are JSON objects."""

    type: Literal["json_object"]


class TextFormat(StrictModel):
    type: Literal["text"]


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
