"""Suggests a known field in place of an unknown one that a request has."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from api.spec.fields import JsonObject

MISSPELT = 0.75
"""Minimum similarity (difflib's ratio) of a misspelt name to the suggested field of the same object."""
MISPLACED = 0.85
"""Minimum similarity of a name to a suggested field of another object."""
MAX_DEPTH = 8
"""Maximum depth of a suggested field's path. Graders contain graders, so there are paths of any depth."""


def unknown_field(model: type[BaseModel], param: str, body: object) -> str:
    """Return the error message about the unknown field `param`."""
    if meant := suggestion(model, param, body):
        return f"Unknown field. Did you mean `{meant}`?"
    parent = param.rpartition(".")[0]
    kind = _type_at(body, parent)
    if kind is not None and param in paths(model):
        return f"Unknown field: `{parent}` of type '{kind[:64]}' has no such field"
    return "Unknown field: it is misspelt or not supported"


def suggestion(model: type[BaseModel], param: str, body: object) -> str | None:
    """Return the path of the field that was probably meant by the unknown field `param`; None if nothing is like it.

    If `param` is a field of another type of its object, the field named after the object's own type is suggested, such
    as `method.supervised` for `method.dpo`. Otherwise the candidates are, best first: a field of the same object with a
    similar name, a field of another object with the same name, and one with a similar name. If the body names no
    method, a field of any method with the same name comes last.
    """
    parent, _, name = param.rpartition(".")
    known, kind = paths(model), _type_at(body, parent)
    if param in known:  # the field belongs to another type of its object
        own = f"{parent}.{kind}"
        return own if own in known and own != param else None
    fitting = [path for path in known if _fits(path, body)]
    beside = {path.rpartition(".")[2]: path for path in fitting if path.rpartition(".")[0] == parent}
    if close := get_close_matches(name, beside, 1, MISSPELT):
        return beside[close[0]]
    elsewhere = {path.rpartition(".")[2]: path for path in sorted(fitting, key=len, reverse=True)}
    if name in elsewhere:
        return elsewhere[name]
    if close := get_close_matches(name, elsewhere, 1, MISPLACED):
        return elsewhere[close[0]]
    if isinstance(body, dict) and "method" in body:
        return None
    named = [path for path in known if path.startswith("method.") and path.rpartition(".")[2] == name]
    return min(named, key=lambda path: (".hyperparameters." not in path, path), default=None)


@lru_cache(maxsize=64)
def paths(model: type[BaseModel]) -> frozenset[str]:
    """Return the dotted paths of all fields of a request's body. For an object that may have several types, the fields
    of all types are included."""
    schema = model.model_json_schema()
    return frozenset(_walk(schema, schema.get("$defs", {}), "", 0))


def _walk(node: JsonObject, definitions: Mapping[str, JsonObject], prefix: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        return
    if "$ref" in node:
        yield from _walk(definitions[node["$ref"].rpartition("/")[2]], definitions, prefix, depth)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for member in node.get(keyword, []):
            yield from _walk(member, definitions, prefix, depth)
    for name, field in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _walk(field, definitions, f"{prefix}{name}.", depth + 1)


def _type_at(body: Any, path: str) -> str | None:
    """Return the `type` of the object at the path; None if it has none."""
    node = body
    for part in path.split(".") if path else []:
        node = node.get(part) if isinstance(node, dict) else None
    return node.get("type") if isinstance(node, dict) and isinstance(node.get("type"), str) else None


def _fits(path: str, body: object) -> bool:
    """Return whether the body's method allows the field. `hyperparameters`, OpenAI's older field, is not allowed beside
    `method`."""
    head, *rest = path.split(".")
    if head == "hyperparameters":
        return not (isinstance(body, dict) and "method" in body)
    return head != "method" or not rest or rest[0] in ("type", _type_at(body, "method") or "supervised")
