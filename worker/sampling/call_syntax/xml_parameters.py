"""Calls with a tag for each parameter, as Qwen3-Coder, later Qwen and Nemotron models write them:

    <function=f>
    <parameter=a>
    text of any length, without quotes
    </parameter>
    </function>

A value is a text if the function's schema says so, and JSON otherwise.
"""

import json
import re
from collections.abc import Mapping

from api.spec.fields import JsonObject
from worker.sampling.call_syntax.base import CallSyntax, FunctionCall, Incomplete, Lark

FUNCTION, PARAMETER = re.compile(r"<function=([^>\n]+)>"), re.compile(r"<parameter=([^>\n]+)>")
END_OF_FUNCTION, END_OF_PARAMETER = "</function>", "</parameter>"
MAX_NAME = 300
"""Maximum number of characters of an unfinished tag. A longer text is no tag."""

HELD = {"type", "properties", "required", "additionalProperties"}
"""Keywords for an object that the grammar enforces."""
SAYS_NOTHING = {"$schema", "$defs", "definitions", "title", "description", "default", "examples", "$comment"}
PLAIN = {"type", "enum", *SAYS_NOTHING}
"""Keywords of schemas whose texts are written without quotes. Other texts are written as JSON."""

TYPES = {
    bool: {"boolean"},
    int: {"integer", "number"},
    float: {"number"},
    str: {"string"},
    list: {"array"},
    dict: {"object"},
    type(None): {"null"},
}
"""The names in schemas of the types of JSON's values."""


class XmlParameters(CallSyntax):
    def find(self, text: str, name: str) -> tuple[int, int] | None:
        start = text.find(f"<function={name}>")
        stop = text.find(END_OF_FUNCTION, start)
        if start < 0 or stop < 0 or not PARAMETER.search(text, start, stop):
            return None
        return start, stop + len(END_OF_FUNCTION)

    def parts(self, call: str, name: str) -> tuple[str, str, str]:
        head, _, rest = call.partition(name)
        start, stop = rest.index("<parameter="), rest.rindex(END_OF_FUNCTION)
        return head, rest[:start], rest[stop:]

    def read(self, text: str, schemas: Mapping[str, JsonObject]) -> tuple[FunctionCall, int] | None:
        found = _tag(FUNCTION, "<function=", text)
        if found is None:
            return None
        name, rest = found
        arguments: JsonObject = {}
        properties = schemas.get(name, {}).get("properties") or {}
        while True:
            rest = rest.lstrip()
            if rest.startswith(END_OF_FUNCTION):
                call = FunctionCall.of(name, arguments)
                return None if call is None else (call, len(text) - len(rest) + len(END_OF_FUNCTION))
            if END_OF_FUNCTION.startswith(rest):
                raise Incomplete
            parameter = _tag(PARAMETER, "<parameter=", rest)
            if parameter is None:
                return None
            key, rest = parameter
            value, end, rest = rest.partition(END_OF_PARAMETER)
            if not end:
                raise Incomplete
            arguments[key] = _value(value.removeprefix("\n").removesuffix("\n"), properties.get(key))

    def argument_rules(self, rule: str, schema: JsonObject | None, lark: Lark, options: JsonObject) -> list[str]:
        end = lark(f"\n{END_OF_PARAMETER}\n")
        text = [f"{rule}_text[lazy]: {rule.upper()}_TEXT {end}", f"{rule.upper()}_TEXT: /(.|\\n)*/"]
        properties = (schema or {}).get("properties") or {}
        if schema is None or (not properties and schema.get("additionalProperties", True) is not False):
            return [f'{rule}: ("<parameter=" /[^>\\n]{{1,64}}/ ">\\n" {rule}_text)*', *text]
        _check(schema)
        shared: JsonObject = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        parameters = []
        for name, of_value in properties.items():
            written = _written(of_value, shared, lark, options)
            value = f"{rule}_text" if written is None else f"{written} {end}"
            optional = "" if name in schema.get("required", ()) else "?"
            parameters.append(f"({lark(f'<parameter={name}>')} {lark(chr(10))} {value}){optional}")
        return [f"{rule}: " + (" ".join(parameters) or '""'), *text]


def _tag(tag: re.Pattern[str], beginning: str, text: str) -> tuple[str, str] | None:
    """Return the name in the tag at the beginning of the text, and the text after the tag; None if the text does not
    begin with a tag. Raise Incomplete if the text ends inside the tag."""
    found = tag.match(text)
    if found is not None:
        return found[1], text[found.end() :]
    if beginning.startswith(text) or (text.startswith(beginning) and "\n" not in text and len(text) < MAX_NAME):
        raise Incomplete
    return None


def _may_be_text(schema: JsonObject) -> bool:
    """Return whether the schema allows strings, which are then written without quotes."""
    named = _types(schema) or ["string" for value in schema.get("enum", ()) if isinstance(value, str)]
    return "string" in named and schema.keys() <= PLAIN


def _types(schema: JsonObject) -> list[str]:
    """Return the types that the schema names, or those of its alternatives if each of them names one."""
    if "type" not in schema and isinstance(parts := schema.get("anyOf"), list):
        of_parts = [_types(part) if isinstance(part, dict) else [] for part in parts]
        return [kind for kinds in of_parts for kind in kinds] if all(of_parts) else []
    kind = schema.get("type", [])
    return [kind] if isinstance(kind, str) else list(kind)


def _value(text: str, schema: object) -> object:
    """Return the value that the text of a parameter stands for."""
    if isinstance(schema, dict) and _may_be_text(schema) and not (text == "null" and "null" in _types(schema)):
        choices = schema.get("enum")
        if choices is None or text in choices:
            return text
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    named = set(_types(schema)) if isinstance(schema, dict) else set()
    return text if "string" in named and not named & TYPES[type(value)] else value


def _written(schema: object, shared: JsonObject, lark: Lark, options: JsonObject) -> str | None:
    """Return the part of a rule that matches a value, without the end tag; None if the value may be any text."""
    if schema is False:
        raise ValueError("a parameter whose schema is false has no values")
    fields: JsonObject = schema if isinstance(schema, dict) else {}
    if "enum" in fields and fields.keys() <= PLAIN:
        choices = (
            each if isinstance(each, str) and _may_be_text(fields) else json.dumps(each) for each in fields["enum"]
        )
        return "(" + " | ".join(map(lark, choices)) + ")"
    if _may_be_text(fields):
        return None
    return f"%json {json.dumps({**fields, **shared, 'x-guidance': options})}"


def _check(schema: JsonObject) -> None:
    """Raise ValueError if the grammar cannot enforce a keyword of the arguments' schema."""
    if others := schema.keys() - HELD - SAYS_NOTHING:
        raise ValueError(f"with this model, arguments cannot be held to '{min(others)}'")
