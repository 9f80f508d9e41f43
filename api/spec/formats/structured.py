"""JSON inside a text: cells of tables, and columns that a program wrote as strings."""

import json
import re
from typing import Any

import msgspec

from api.spec.formats.base import RowError, truncate

PYTHON = re.compile(r"[\[\s]*\{\s*'")
"""How an array of objects, or an object, begins where str() wrote it."""


def structure_in(text: str) -> Any:
    """Return the array or object that the text holds as JSON, None where it holds none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return _decoded(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def structured(value: Any, key: str, code: str) -> Any:
    """Return the value, decoded if it is a text of JSON; None for a blank text or null. Raise RowError for broken JSON.

    For keys that can hold nothing but an array or an object.
    """
    if not isinstance(value, str):
        return value
    if value.strip() in ("", "null"):
        return None
    if value.lstrip()[0] not in "[{":
        return value
    if PYTHON.match(value):
        raise RowError(f"'{key}' is written as Python shows it, not as JSON: write it with json.dumps", code=code)
    try:
        return _decoded(value)
    except RecursionError:
        raise RowError(f"'{key}' is nested too deeply", code=code) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RowError(f"'{key}' is a text that is not valid JSON: {truncate(value)} ({error})", code=code) from None


def messages_in(value: Any) -> list[Any] | None:
    """Return the messages that a value is, or holds as JSON; None where it is anything else."""
    found = structure_in(value) if isinstance(value, str) else value
    if isinstance(found, dict):
        found = [found]
    return found if isinstance(found, list) and found and all(map(_is_message, found)) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role", value.get("from")), str)


def _decoded(text: str) -> Any:
    if "\\u0000" in text:
        raise ValueError("it contains the character NUL")
    json.loads(text, object_pairs_hook=_with_unique_keys, parse_int=str)  # msgspec keeps the last of equal keys
    return msgspec.json.decode(text)


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("it has a key twice in one object")
    return result
