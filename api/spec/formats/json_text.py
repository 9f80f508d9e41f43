"""JSON inside a text: in cells of tables, and in columns that a program wrote as strings."""

import json
import re

import msgspec

from api.spec.fields import JsonObject
from api.spec.formats.base import Messages, RowError, truncate

PYTHON = re.compile(r"[\[\s]*\{\s*'")
"""The beginning of an object, or of an array of objects, that Python's str() wrote."""


def parse_json_text(text: str) -> object:
    """Return the array or object that the text holds as JSON, or None if it holds none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return _decoded(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def decode_json_field(value: object, key: str, code: str) -> object:
    """Return the value of a key that must hold an array or an object, decoded if it is a text of JSON; None for a blank
    text or null. Raises RowError for invalid JSON."""
    if not isinstance(value, str):
        return value
    if value.strip() in ("", "null"):
        return None
    if value.lstrip()[0] not in "[{":
        return value
    if PYTHON.match(value):
        raise RowError(f"'{key}' is in Python's notation, not JSON: write it with json.dumps", code=code)
    try:
        return _decoded(value)
    except RecursionError:
        raise RowError(f"'{key}' is nested too deeply", code=code) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RowError(f"'{key}' is not valid JSON: {truncate(value)} ({error})", code=code) from None


def find_messages(value: object) -> Messages | None:
    """Return the messages that the value is, or holds as JSON. A single message is returned as an array of one. Return
    None for anything else."""
    messages = parse_json_text(value) if isinstance(value, str) else value
    if isinstance(messages, dict):
        messages = [messages]
    return messages if isinstance(messages, list) and messages and all(map(_is_message, messages)) else None


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role", value.get("from")), str)


def _decoded(text: str) -> object:
    if "\\u0000" in text:
        raise ValueError("it contains the character NUL")
    json.loads(text, object_pairs_hook=_with_unique_keys, parse_int=str)  # msgspec does not report repeated keys
    return msgspec.json.decode(text)


def _with_unique_keys(pairs: list[tuple[str, object]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result
