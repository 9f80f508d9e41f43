"""Tools in conversations: their definitions and calls. All formats with messages use this module."""

import msgspec

from api.spec.fields import JsonObject
from api.spec.formats.base import RowError, RowWarning, json_type, truncate, warn_once
from api.spec.formats.calls import MISSING
from api.spec.formats.json_text import decode_json_field


def parse_tools(raw: object, warnings: list[RowWarning]) -> list[JsonObject] | None:
    """Return `tools`, the definitions of functions for the chat template, or None if there are none. Raises RowError if
    one is invalid."""
    raw = decode_json_field(raw, "tools", "invalid_tools")
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise RowError(f"'tools' must be an array, not {json_type(raw)}", code="invalid_tools")
    return [_tool(tool, f"tools: entry {number}", warnings) for number, tool in enumerate(raw, start=1)]


def _tool(raw: object, where: str, warnings: list[RowWarning]) -> JsonObject:
    """Return the definition of a tool in OpenAI's form. Some files have only its `function` object."""
    tool = decode_json_field(raw, where, "invalid_tools")
    if isinstance(tool, dict) and tool.get("type", "function") == "function":
        function = tool.get("function")
        if function is None and "name" in tool:
            function = {key: value for key, value in tool.items() if key != "type"}
        if isinstance(function, dict):
            _check_definition(function, where)
            whole = {"type": "function", "function": function}
            if tool.keys() < whole.keys() or "function" not in tool:
                warn_once(warnings, "bare_tool", f"{where} is read as {{'type': 'function', 'function': {{…}}}}")
                return whole
            return tool
    raise RowError(f"{where} must be of the form {{'type': 'function', 'function': {{…}}}}", code="invalid_tools")


def parse_functions(raw: object) -> list[JsonObject] | None:
    """Return `functions`, the deprecated form of `tools`, as tools, or None if there are none. Raises RowError if one
    is invalid."""
    raw = decode_json_field(raw, "functions", "invalid_tools")
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise RowError(f"'functions' must be an array, not {json_type(raw)}", code="invalid_tools")
    for number, function in enumerate(raw, start=1):
        if not isinstance(function, dict):
            raise RowError(
                f"functions: entry {number} must be an object, not {json_type(function)}", code="invalid_tools"
            )
        _check_definition(function, f"functions: entry {number}")
    return [{"type": "function", "function": function} for function in raw]


def _check_definition(function: JsonObject, where: str) -> None:
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"{where} has no 'name'", code="invalid_tools")
    if not isinstance(function.get("description"), str | None):
        raise RowError(f"{where}: 'description' must be a string", code="invalid_tools")
    if not isinstance(function.get("parameters"), dict | None):
        raise RowError(f"{where}: 'parameters' must be a JSON schema object", code="invalid_tools")


def parse_calls(raw: object, warnings: list[RowWarning], where: str) -> list[JsonObject]:
    """Return the `tool_calls` of an assistant message, with parsed arguments. Raises RowError if a call is invalid."""
    raw = decode_json_field(raw, "tool_calls", "invalid_tool_calls")
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise RowError(f"'tool_calls' must be an array, not {json_type(raw)}", code="invalid_tool_calls")
    calls = [_to_openai_call(call) for call in raw]
    if calls != raw:
        text = "tool calls are read as {'type': 'function', 'function': {…}}"
        warn_once(warnings, "bare_tool_call", f"{where}: {text}")
    return [parse_call(call, f"tool call {number}") for number, call in enumerate(calls, start=1)]


def _to_openai_call(raw: object) -> object:
    """Return a call in OpenAI's form. Some files leave out its `type`, or have only its `function` object."""
    if not isinstance(raw, dict) or raw.get("type", "function") != "function":
        return raw
    if "function" not in raw and "name" in raw:
        function = {key: value for key, value in raw.items() if key not in ("id", "type")}
        return {**{key: raw[key] for key in ("id",) if key in raw}, "type": "function", "function": function}
    return {"type": "function", **raw}


def parse_call(raw: object, where: str) -> JsonObject:
    """Return a call whose arguments are an object, as chat templates need them.

    OpenAI's arguments are a string of JSON. Raises RowError if the call is invalid.
    """
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(function, dict) or raw.get("type") != "function":
        raise RowError(
            f"{where} must be of the form {{'id', 'type': 'function', 'function': {{…}}}}", code="invalid_tool_calls"
        )
    number = raw.get("id")
    if not isinstance(number, str | None):
        raise RowError(f"{where}: 'id' must be a string, not {json_type(number)}", code="invalid_tool_calls")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise RowError(f"{where} must have a function 'name' (a string)", code="invalid_tool_calls")
    arguments = _arguments(function.get("arguments"), where)
    return {"id": number or MISSING, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(raw: object, where: str) -> JsonObject:
    """Return the arguments as an object. OpenAI's files hold them as a string of JSON, Hugging Face's as an object."""
    if raw is None or isinstance(raw, dict):
        return raw or {}
    if not isinstance(raw, str):
        problem = f"must be a JSON object, or a string of JSON, not {json_type(raw)}"
        raise RowError(f"{where}: 'arguments' {problem}", code="invalid_tool_calls")
    try:
        arguments = msgspec.json.decode(raw) if raw.strip() else {}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RowError(f"{where}: 'arguments' is not JSON: {truncate(raw)}", code="invalid_tool_calls") from None
    if not isinstance(arguments, dict):
        raise RowError(
            f"{where}: 'arguments' must hold a JSON object, not {json_type(arguments)}", code="invalid_tool_calls"
        )
    return arguments
