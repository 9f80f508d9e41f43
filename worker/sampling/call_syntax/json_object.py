"""Calls as JSON objects: `{"name": "f", "arguments": {"a": 1}}`, or with the key `parameters`."""

import json
from collections.abc import Mapping

from api.spec.fields import JsonObject
from worker.sampling.call_syntax.base import CallSyntax, FunctionCall, Incomplete, Lark

ARGUMENTS = ("arguments", "parameters")
"""Keys that templates use for a call's arguments."""


class JsonCalls(CallSyntax):
    def find(self, text: str, name: str) -> tuple[int, int] | None:
        start = text.find("{")
        while start >= 0:
            try:
                call, stop = json.JSONDecoder().raw_decode(text, start)
            except json.JSONDecodeError:
                call, stop = None, start + 1
            if (
                isinstance(call, dict)
                and call.get("name") == name
                and any(isinstance(call.get(k), dict) for k in ARGUMENTS)
            ):
                return start, stop
            start = text.find("{", start + 1)
        return None

    def parts(self, call: str, name: str) -> tuple[str, str, str]:
        head, _, rest = call.partition(name)
        start = rest.index("{")
        _, stop = json.JSONDecoder().raw_decode(rest, start)
        return head, rest[:start], rest[stop:]

    def read(self, text: str, schemas: Mapping[str, JsonObject]) -> tuple[FunctionCall, int] | None:
        try:
            value, stop = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):  # a plain ValueError for an integer of too many digits
            if text.startswith("{"):
                raise Incomplete from None
            return None
        call = _as_call(value)
        return None if call is None else (call, stop)

    def argument_rules(self, rule: str, schema: JsonObject | None, lark: Lark, options: JsonObject) -> list[str]:
        return [f"{rule}: %json {json.dumps((schema or {}) | {'type': 'object', 'x-guidance': options})}"]


def _as_call(value: object) -> FunctionCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = next((value[key] for key in ARGUMENTS if isinstance(value.get(key), dict)), None)
    return None if arguments is None else FunctionCall.of(value["name"], arguments)
