"""The messages of a conversation: roles, contents and calls. All formats with messages use this module."""

import itertools
from collections.abc import Callable, Sequence

from api.spec.fields import JsonObject
from api.spec.formats.base import (
    EMPTY,
    Conversation,
    Messages,
    Row,
    RowError,
    RowWarning,
    json_type,
    optional_string,
    truncate,
    warn_once,
)
from api.spec.formats.calls import ANY_CALL, MISSING, call_warnings, link_calls
from api.spec.formats.json_text import decode_json_field
from api.spec.formats.speaker_roles import ROLES, normalize_message
from api.spec.formats.tools import parse_call, parse_calls, parse_functions, parse_tools

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of the assistant's reasoning; the first is the one that most templates read."""
MESSAGE_KEYS: dict[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset(
        {"role", "content", "name", "weight", "tool_calls", "function_call", *REASONING, "refusal", "audio"}
    ),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
    "function": frozenset({"role", "content", "name"}),
}
TRAIN_FLAGS = ("train", "loss")
"""Keys with which messages of axolotl and ms-swift mark whether they are supervised."""

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
"""Types of text parts in a content, from OpenAI and Hugging Face."""


def parse_messages(
    raw: object, warnings: list[RowWarning], key: str = "messages", before: Sequence[Row] = ()
) -> tuple[Messages, list[float]]:
    """Return the messages for a chat template, and the loss weight of each. `before`: earlier messages, already parsed.
    Raises RowError if a message is invalid."""
    raw = decode_json_field(raw, key, "invalid_json")
    if not isinstance(raw, list) or not raw:
        raise RowError(f"'{key}' must be an array with at least one message", code="invalid_messages")
    where = "" if key == "messages" else f"'{key}' "
    messages, weights = [], []
    for number, entry in enumerate(raw, start=1):
        try:
            place = f"{where}message {number}"
            named = with_weight(normalize_message(entry, warnings, place), warnings, place)
            message, weight = parse_message(named, warnings, place)
        except RowError as error:
            raise RowError(f"{where}message {number} {error.message}", code=error.code) from None
        messages.append(message)
        weights.append(weight)
    link_calls(messages, warnings, where, before)
    return messages, weights


def parse_row_tools(row: Row, warnings: list[RowWarning]) -> Messages | None:
    """Return the tools of a row, from `tools` or `functions`, or None if it has none. Raises RowError for an invalid
    tool, or for an invalid `parallel_tool_calls`."""
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise RowError("'parallel_tool_calls' must be a boolean", code="invalid_type")
    return parse_tools(row.get("tools"), warnings) or parse_functions(row.get("functions"))


def with_system(row: Row, messages: Messages, warnings: list[RowWarning]) -> Messages:
    """Return the messages with the row's `system` text before them, unless they begin with a system message."""
    system = optional_string(row, "system")
    if not system:
        return messages
    if messages[0]["role"] == "system":
        if messages[0]["content"] != system:
            warnings.append(
                RowWarning("ignored_key", "key 'system' is ignored: the messages begin with a system message")
            )
        return messages
    return [{"role": "system", "content": system}, *messages]


def unsupervised_conversation(messages: Messages, tools: Messages | None) -> Conversation:
    """Return a conversation without supervised messages."""
    return Conversation(messages, [0.0] * len(messages), tools)


def train_on_last_answer(messages: Messages, tools: Messages | None, key: str) -> Conversation:
    """Return a conversation in which only the last message is supervised.

    Raises RowError, naming `key`, if that message is not the assistant's.
    """
    if messages[-1]["role"] != "assistant":
        raise RowError(f"'{key}' must end with a message from the assistant", code="no_assistant_message")
    return Conversation(messages, [0.0] * (len(messages) - 1) + [1.0], tools)


def is_empty(message: JsonObject) -> bool:
    """Return whether this is an assistant message without reasoning, calls and text."""
    return (
        message["role"] == "assistant"
        and not message.get("tool_calls")
        and not (message.get("reasoning_content") or "").strip()
        and not (message.get("content") or "").strip()
    )


def order_warnings(messages: Messages, tools: Messages | None = None) -> list[RowWarning]:
    """Return warnings about unusual orders of roles, which are often mistakes, and about tool calls and results that do
    not match."""
    roles = [message["role"] for message in messages]
    warnings = []
    without_system = [role for role in roles if role != "system"]
    if without_system[:1] == ["assistant"]:
        warnings.append(RowWarning("role_order", "the first assistant message comes before any user message"))
    for number, (before, role) in enumerate(itertools.pairwise(roles), start=2):
        if role == before and role in {"user", "assistant"}:
            warnings.append(
                RowWarning("role_order", f"message {number} and the one before it are both from the {role}")
            )
        elif role == "system" and before != "system":
            warnings.append(
                RowWarning("role_order", f"message {number} is a system message, which usually comes first")
            )
    return [*warnings, *call_warnings(messages, tools)]


def parse_message(raw: object, warnings: list[RowWarning], where: str) -> tuple[JsonObject, float]:
    """Return one message for a chat template, and its loss weight. Raises RowError if the message is invalid."""
    if not isinstance(raw, dict):
        raise RowError(f"must be an object, not {json_type(raw)}", code="invalid_messages")
    if "role" not in raw:
        # OpenAI's wording.
        raise RowError("Discriminator 'role' is missing in value", code="missing_role")
    role = raw["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise RowError(f"role '{truncate(role)}' is not one of {', '.join(ROLES)}", code="unknown_role")
    unknown = sorted(key for key in raw.keys() - MESSAGE_KEYS[role] if raw[key] not in EMPTY)
    if role != "assistant" and "weight" in unknown:
        raise RowError("only assistant messages can have a 'weight'", code="invalid_weight")
    warnings.extend(
        RowWarning("unknown_key", f"{where}: key '{truncate(key)}' is not part of the format and is ignored")
        for key in unknown
    )
    if raw.get("name") is not None and not isinstance(raw["name"], str):
        raise RowError(f"'name' must be a string, not {json_type(raw['name'])}", code="invalid_type")
    if role == "assistant":
        return _assistant(raw, warnings, where), parse_weight(raw)
    return PARSERS[role](raw), 0.0


def with_weight(raw: object, warnings: list[RowWarning], where: str) -> object:
    """Return the message with a `weight` in place of a flag in TRAIN_FLAGS. Return anything else unchanged."""
    if not isinstance(raw, dict):
        return raw
    key = next((key for key in TRAIN_FLAGS if isinstance(raw.get(key), bool)), None)
    if key is None or raw.get("weight") is not None:
        return raw
    message = {name: value for name, value in raw.items() if name != key}
    if raw.get("role") != "assistant" and not raw[key]:
        return message  # other roles are never supervised
    warn_once(warnings, "weight_key", f"{where}: key '{key}' is read as 'weight', here and in other messages")
    return message | {"weight": int(raw[key])}


def parse_weight(raw: Row) -> float:
    weight = raw.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError("'weight' must be 0 or 1", code="invalid_weight")
    return float(weight)


def parse_content(raw: Row) -> str:
    """Return the text of a message: a string, or an array of text parts, which are joined. Raises RowError for other
    content."""
    content = raw.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        problem = "is missing" if "content" not in raw else f"must be a string, not {json_type(content)}"
        raise RowError(f"'content' {problem}", code="invalid_content")
    texts = []
    for part in content:
        part_type = part.get("type") if isinstance(part, dict) else None
        if isinstance(part_type, str) and part_type not in TEXT_PARTS:
            raise RowError(
                f"has a part of type '{truncate(part_type)}'; only text is supported",
                code="unsupported_content",
            )
        if not isinstance(part, dict) or part_type not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise RowError(
                "has an invalid content part: it must be {'type': 'text', 'text': '…'}", code="invalid_content"
            )
        texts.append(part["text"])
    return "".join(texts)


def _speaker(raw: Row) -> JsonObject:
    # `developer` is OpenAI's later name for `system`; templates of open models know only the latter.
    message = {"role": "user" if raw["role"] == "user" else "system", "content": parse_content(raw)}
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _assistant(raw: Row, warnings: list[RowWarning], where: str) -> JsonObject:
    for unsupported in ("refusal", "audio"):
        if raw.get(unsupported) is not None:
            raise RowError(f"has a '{unsupported}', which is not supported", code="unsupported_content")
    message: JsonObject = {"role": "assistant"}
    calls = parse_calls(raw.get("tool_calls"), warnings, where)
    if raw.get("function_call") is not None:
        if calls:
            raise RowError("has both 'tool_calls' and the deprecated 'function_call'", code="invalid_tool_calls")
        calls = [parse_call({"type": "function", "id": ANY_CALL, "function": raw["function_call"]}, "function_call")]
    if raw.get("content") is not None or not calls:
        message["content"] = parse_content(raw)
    if calls:
        message["tool_calls"] = calls
    key = next((key for key in REASONING if raw.get(key) is not None), None)
    if key is not None:
        reasoning = raw[key]
        if not isinstance(reasoning, str):
            raise RowError(f"'{key}' must be a string, not {json_type(reasoning)}", code="invalid_type")
        message["reasoning_content"] = reasoning
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _tool(raw: Row) -> JsonObject:
    if not isinstance(raw.get("tool_call_id"), str | None):
        raise RowError(
            f"'tool_call_id' must be a string, not {json_type(raw['tool_call_id'])}", code="missing_tool_call_id"
        )
    message = {"role": "tool", "content": parse_content(raw), "tool_call_id": raw.get("tool_call_id") or MISSING}
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _function(raw: Row) -> JsonObject:
    """Return the deprecated form of a tool's result as a tool message."""
    if not isinstance(raw.get("name"), str):
        raise RowError("must have a 'name' (a string)", code="missing_name")
    return {"role": "tool", "content": parse_content(raw), "tool_call_id": ANY_CALL, "name": raw["name"]}


PARSERS: dict[str, Callable[[Row], JsonObject]] = {
    "system": _speaker,
    "developer": _speaker,
    "user": _speaker,
    "tool": _tool,
    "function": _function,
}
