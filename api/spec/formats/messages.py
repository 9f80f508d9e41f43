"""Messages of a conversation: their roles, contents and calls. Shared by the formats that hold messages."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from api.spec.formats.base import (
    EMPTY,
    Conversation,
    Row,
    RowError,
    RowWarning,
    kind,
    notice_once,
    optional_string,
    truncate,
)
from api.spec.formats.calls import ANY_CALL, MISSING, Messages, call_notices, link_calls
from api.spec.formats.speakers import ROLES, openai_message
from api.spec.formats.structured import structured
from api.spec.formats.tools import parse_call, parse_calls, parse_functions, parse_tools

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of what the assistant thinks before it answers; the first is the one that templates mostly read."""
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
LEARNT = ("train", "loss")
"""Keys by which axolotl's and ms-swift's messages say whether they are learnt."""

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
"""Types of parts of a content that are text, at OpenAI and Hugging Face."""


def parse_messages(
    raw: Any, notices: list[RowWarning], key: str = "messages", before: Sequence[Row] = ()
) -> tuple[Messages, list[float]]:
    """The messages as a chat template takes them, and the weight in the loss of each. `before`: parsed earlier ones."""
    raw = structured(raw, key, "invalid_json")
    if not isinstance(raw, list) or not raw:
        raise RowError(f"'{key}' must be an array with at least one message", code="invalid_messages")
    where = "" if key == "messages" else f"'{key}' "
    messages, weights = [], []
    for number, entry in enumerate(raw, start=1):
        try:
            place = f"{where}message {number}"
            named = with_weight(openai_message(entry, notices, place), notices, place)
            message, weight = parse_message(named, notices, place)
        except RowError as error:
            raise RowError(f"{where}message {number} {error.message}", code=error.code) from None
        messages.append(message)
        weights.append(weight)
    link_calls(messages, notices, where, before)
    return messages, weights


def parse_row_tools(row: Row, notices: list[RowWarning]) -> Messages | None:
    """The tools of a row, in either form, and its `parallel_tool_calls` checked."""
    if not isinstance(row.get("parallel_tool_calls"), bool | None):
        raise RowError("'parallel_tool_calls' must be a boolean", code="invalid_type")
    return parse_tools(row.get("tools"), notices) or parse_functions(row.get("functions"))


def with_system(row: Row, messages: Messages, notices: list[RowWarning]) -> Messages:
    """The messages after the row's own system text, if it has one and they have none."""
    system = optional_string(row, "system")
    if not system:
        return messages
    if messages[0]["role"] == "system":
        if messages[0]["content"] != system:
            notices.append(
                RowWarning("ignored_key", "key 'system' is ignored: the messages begin with one of the system")
            )
        return messages
    return [{"role": "system", "content": system}, *messages]


def given(messages: Messages, tools: Messages | None) -> Conversation:
    """A conversation of which nothing is learnt."""
    return Conversation(messages, [0.0] * len(messages), tools)


def answered(messages: Messages, tools: Messages | None, key: str) -> Conversation:
    """A conversation of which the last answer is learnt; `key` named it."""
    if messages[-1]["role"] != "assistant":
        raise RowError(f"'{key}' must end with a message from the assistant", code="no_assistant_message")
    return Conversation(messages, [0.0] * (len(messages) - 1) + [1.0], tools)


def is_empty(message: dict[str, Any]) -> bool:
    """Whether the assistant says nothing there, or white space only."""
    return (
        message["role"] == "assistant"
        and not message.get("tool_calls")
        and not (message.get("reasoning_content") or "").strip()
        and not (message.get("content") or "").strip()
    )


def order_notices(messages: Messages, tools: Messages | None = None) -> list[RowWarning]:
    """Orders of roles that models seldom saw, and calls that name nothing: more often slips than meant."""
    roles = [message["role"] for message in messages]
    notices = []
    spoken = [role for role in roles if role != "system"]
    if spoken[:1] == ["assistant"]:
        notices.append(RowWarning("role_order", "the assistant speaks first, before any user"))
    for number, (before, role) in enumerate(itertools.pairwise(roles), start=2):
        if role == before and role in {"user", "assistant"}:
            notices.append(RowWarning("role_order", f"message {number} is the second from the {role} in a row"))
        elif role == "system" and before != "system":
            notices.append(RowWarning("role_order", f"message {number} is from the system, which usually speaks first"))
    return [*notices, *call_notices(messages, tools)]


def parse_message(raw: Any, notices: list[RowWarning], where: str) -> tuple[dict[str, Any], float]:
    """One message as a chat template takes it, and its weight in the loss."""
    if not isinstance(raw, dict):
        raise RowError(f"must be an object, not {kind(raw)}", code="invalid_messages")
    if "role" not in raw:
        # OpenAI's words.
        raise RowError("Discriminator 'role' is missing in value", code="missing_role")
    role = raw["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise RowError(f"role '{truncate(role)}' is not one of {', '.join(ROLES)}", code="unknown_role")
    unknown = sorted(key for key in raw.keys() - MESSAGE_KEYS[role] if raw[key] not in EMPTY)
    if role != "assistant" and "weight" in unknown:
        raise RowError("only assistant messages can have a 'weight'", code="invalid_weight")
    notices.extend(
        RowWarning("unknown_key", f"{where}: key '{truncate(key)}' is not part of the format and is ignored")
        for key in unknown
    )
    if raw.get("name") is not None and not isinstance(raw["name"], str):
        raise RowError(f"'name' must be a string, not {kind(raw['name'])}", code="invalid_type")
    if role == "assistant":
        return _assistant(raw, notices, where), parse_weight(raw)
    return PARSERS[role](raw), 0.0


def with_weight(raw: Any, notices: list[RowWarning], where: str) -> Any:
    """The message with a weight where it says under another key whether it is learnt; whatever else as it is."""
    key = next((key for key in LEARNT if isinstance(raw, dict) and isinstance(raw.get(key), bool)), None)
    if key is None or raw.get("weight") is not None:
        return raw
    message = {name: value for name, value in raw.items() if name != key}
    if raw.get("role") != "assistant" and not raw[key]:
        return message  # nobody else is learnt from anyway
    notice_once(notices, "weight_key", f"{where}: key '{key}' is read as 'weight'; so it is in others")
    return message | {"weight": int(raw[key])}


def parse_weight(raw: Row) -> float:
    weight = raw.get("weight")
    if weight is None:
        return 1.0
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError("'weight' must be 0 or 1", code="invalid_weight")
    return float(weight)


def parse_content(raw: Row) -> str:
    """The text of a message: a string, or an array of text parts (joined as they are)."""
    content = raw.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        problem = "is missing" if "content" not in raw else f"must be a string, not {kind(content)}"
        raise RowError(f"'content' {problem}", code="invalid_content")
    texts = []
    for part in content:
        part_type = part.get("type") if isinstance(part, dict) else None
        if isinstance(part_type, str) and part_type not in TEXT_PARTS:
            raise RowError(
                f"has a part of type '{truncate(part_type)}'; only text can be learnt from yet",
                code="unsupported_content",
            )
        if not isinstance(part, dict) or part_type not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise RowError(
                "has a content part that is not of the form {'type': 'text', 'text': '…'}", code="invalid_content"
            )
        texts.append(part["text"])
    return "".join(texts)


def _speaker(raw: Row) -> dict[str, Any]:
    # `developer` is OpenAI's later name for `system`; templates of open models know only the latter.
    message = {"role": "user" if raw["role"] == "user" else "system", "content": parse_content(raw)}
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _assistant(raw: Row, notices: list[RowWarning], where: str) -> dict[str, Any]:
    for unsupported in ("refusal", "audio"):
        if raw.get(unsupported) is not None:
            raise RowError(f"has a '{unsupported}', which cannot be learnt from yet", code="unsupported_content")
    message: dict[str, Any] = {"role": "assistant"}
    calls = parse_calls(raw.get("tool_calls"), notices, where)
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
            raise RowError(f"'{key}' must be a string, not {kind(reasoning)}", code="invalid_type")
        message["reasoning_content"] = reasoning
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _tool(raw: Row) -> dict[str, Any]:
    if not isinstance(raw.get("tool_call_id"), str | None):
        raise RowError(f"'tool_call_id' must be a string, not {kind(raw['tool_call_id'])}", code="missing_tool_call_id")
    message = {"role": "tool", "content": parse_content(raw), "tool_call_id": raw.get("tool_call_id") or MISSING}
    return message | ({"name": raw["name"]} if raw.get("name") else {})


def _function(raw: Row) -> dict[str, Any]:
    """The deprecated form of a tool's answer."""
    if not isinstance(raw.get("name"), str):
        raise RowError("must have a 'name' (a string)", code="missing_name")
    return {"role": "tool", "content": parse_content(raw), "tool_call_id": ANY_CALL, "name": raw["name"]}


PARSERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "system": _speaker,
    "developer": _speaker,
    "user": _speaker,
    "tool": _tool,
    "function": _function,
}
