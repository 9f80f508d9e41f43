"""Base classes and field types for the pydantic models of recipes and other requests."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    GetCoreSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")

AUTO: Literal["auto"] = "auto"

JsonObject = dict[str, Any]
"""A parsed JSON object with any keys and values."""


def _number(value: object) -> object:
    if isinstance(value, bool | str | bytes):
        raise ValueError(f"Input should be a number, not {'a boolean' if isinstance(value, bool) else 'a text'}")
    return value


def _boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("Input should be true or false")
    return value


_CHECKS = {"int": _number, "float": _number, "bool": _boolean}


def _with_strict_numbers(schema: Any) -> Any:
    """Return a model's core schema with a check before each number and boolean, which rejects values of other types."""
    if isinstance(schema, list | tuple):
        return type(schema)(_with_strict_numbers(part) for part in schema)
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "function-before" and schema["function"]["function"] in _CHECKS.values():
        return schema
    kept = {"metadata", "serialization", "function"}
    inner = {key: value if key in kept else _with_strict_numbers(value) for key, value in schema.items()}
    kind = schema.get("type")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    return inner if check is None else core_schema.no_info_before_validator_function(check, inner)


class StrictModel(BaseModel):
    """A model that rejects unknown fields, so that a misspelled option is an error instead of being ignored.

    It also rejects booleans and texts where a number is expected, and numbers and texts where a boolean is expected.
    3.0 counts as an integer, because JSON does not distinguish it from 3.

    The text below a field is its description in JSON Schemas.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _with_strict_numbers(handler(source))
        return schema


def _is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode the text. JSON may name half of a character, a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class NulFreeModel(StrictModel):
    """A request body whose texts can be stored and sent: without NUL characters, which PostgreSQL cannot store, and
    without lone surrogates, which UTF-8 cannot encode."""

    @model_validator(mode="before")
    @classmethod
    def _text_is_storable(cls, data: object) -> object:
        left = [data]
        while left:
            match left.pop():
                case str() as text if "\0" in text:
                    raise ValueError("the body holds a NUL character (\\u0000), which cannot be stored")
                case str() as text if not _is_unicode(text):
                    raise ValueError("the body holds half of a character (a lone surrogate such as \\ud800)")
                case dict() as fields:
                    left += [*fields, *fields.values()]
                case list() as items:
                    left += items
        return data


MAX_DEPTH = 100
"""Maximum depth of nested objects and arrays in free JSON."""


def _repeatable(free: JsonObject) -> JsonObject:
    """Return the object. Raise ValueError if it cannot be stored as JSON and returned unchanged."""
    left: list[tuple[object, int]] = [(free, 0)]
    while left:
        value, depth = left.pop()
        match value:
            case str() as text if not _is_unicode(text):
                raise ValueError("a text has half of a character (a lone surrogate such as \\ud800)")
            case float() as number if not math.isfinite(number):
                raise ValueError(f"{number} is not allowed in JSON")
            case dict() | list() if depth == MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
            case dict() as fields:
                left += [(each, depth + 1) for each in (*fields, *fields.values())]
            case list() as items:
                left += [(each, depth + 1) for each in items]
    return free


FreeJson = Annotated[JsonObject, AfterValidator(_repeatable)]
"""A JSON object with any content, which is stored and returned unchanged."""


def with_current_names(model: type[BaseModel], stored: Mapping[str, object]) -> dict[str, object]:
    """Return the stored fields under the model's current field names. Rows that were written before a field was renamed
    have its old name."""
    current = _current_names(model)
    return {current.get(name, name): value for name, value in stored.items()}


@cache
def _current_names(model: type[BaseModel]) -> Mapping[Any, str]:
    """Return {name in a stored row: current name} for the renamed fields of the model."""
    return {
        old: name
        for name, field in model.model_fields.items()
        if isinstance(field.validation_alias, AliasChoices)
        for old in field.validation_alias.choices
    }


def _auto_or_value(value: object) -> str:
    return "auto" if value == AUTO else "value"


# A tagged union, so that a wrong value is reported as one error instead of one for each member of the union.
Auto = Annotated[
    Annotated[Literal["auto"], Tag("auto")] | Annotated[T, Tag("value")],
    Discriminator(_auto_or_value),
]
"""`Auto[int]`: an int, or "auto". Attune replaces "auto" with a value, which the job's object shows."""


def _null_is_default(value: object) -> object:
    return {} if value is None else value


OrNull = Annotated[T, BeforeValidator(_null_is_default)]
"""A nested object. OpenAI's clients may send null instead, which means the object with all defaults."""


def _null_is_auto(value: object) -> object:
    return AUTO if value is None else value


AutoOrNull = Annotated[Auto[T], BeforeValidator(_null_is_auto)]
"""`Auto` that also accepts null for "auto", as OpenAI's API does."""
