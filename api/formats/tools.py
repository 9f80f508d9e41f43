"""Tools in conversations: what may be called, and the calls. Shared by the formats that hold messages."""

from typing import Any

import msgspec

from api.formats.base import RowError, kind, shown


def parse_tools(raw: Any) -> list[dict[str, Any]] | None:
    """`tools`: definitions of functions, as the template shows them to the model."""
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise RowError(f"'tools' must be an array, not {kind(raw)}", code="invalid_tools")
    for number, tool in enumerate(raw, start=1):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise RowError(
                f"tools: entry {number} must be of the form {{'type': 'function', 'function': {{…}}}}",
                code="invalid_tools",
            )
        _check_definition(tool["function"], f"tools: entry {number}")
    return raw


def parse_functions(raw: Any) -> list[dict[str, Any]] | None:
    """`functions`, the deprecated form, as tools."""
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise RowError(f"'functions' must be an array, not {kind(raw)}", code="invalid_tools")
    for number, function in enumerate(raw, start=1):
        if not isinstance(function, dict):
            raise RowError(f"functions: entry {number} must be an object, not {kind(function)}", code="invalid_tools")
        _check_definition(function, f"functions: entry {number}")
    return [{"type": "function", "function": function} for function in raw]


def _check_definition(function: dict[str, Any], where: str) -> None:
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError(f"{where} has no 'name'", code="invalid_tools")
    if not isinstance(function.get("description"), str | None):
        raise RowError(f"{where}: 'description' must be a string", code="invalid_tools")
    if not isinstance(function.get("parameters"), dict | None):
        raise RowError(f"{where}: 'parameters' must be a JSON schema object", code="invalid_tools")


def parse_calls(raw: Any) -> list[dict[str, Any]]:
    """`tool_calls` of an assistant message, their arguments parsed."""
    if raw is None:
        return []
    if not isinstance(raw, list) or not raw:
        raise RowError("'tool_calls' must be an array with at least one call", code="invalid_tool_calls")
    return [parse_call(call, f"tool call {number}") for number, call in enumerate(raw, start=1)]


def parse_call(raw: Any, where: str) -> dict[str, Any]:
    """A call: its arguments are a string of JSON at OpenAI, and the object in it for chat templates."""
    function = raw.get("function") if isinstance(raw, dict) else None
    if not isinstance(function, dict) or raw.get("type") != "function":
        raise RowError(
            f"{where} must be of the form {{'id', 'type': 'function', 'function': {{…}}}}", code="invalid_tool_calls"
        )
    if not isinstance(raw.get("id"), str):
        raise RowError(f"{where} must have an 'id' (a string)", code="invalid_tool_calls")
    name, text = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise RowError(f"{where} must have a function 'name' (a string)", code="invalid_tool_calls")
    if not isinstance(text, str):
        raise RowError(f"{where}: 'arguments' must be a string of JSON, not {kind(text)}", code="invalid_tool_calls")
    try:
        arguments = msgspec.json.decode(text) if text.strip() else {}
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RowError(f"{where}: 'arguments' is not JSON: {shown(text)}", code="invalid_tool_calls") from None
    if not isinstance(arguments, dict):
        raise RowError(
            f"{where}: 'arguments' must hold a JSON object, not {kind(arguments)}", code="invalid_tool_calls"
        )
    return {"id": raw["id"], "type": "function", "function": {"name": name, "arguments": arguments}}
