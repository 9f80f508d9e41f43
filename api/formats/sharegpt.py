"""ShareGPT's format: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from api.formats.base import Conversation, Format, Row, RowError, kind, optional_string, shown
from api.formats.chat import conversation
from api.formats.messages import parse_messages, parse_row_tools

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""Names of speakers as they are met, and the roles that they stand for."""
TURN_KEYS = frozenset({"from", "value", "weight"})


class ShareGpt(Format):
    """Conversations under other names: turned into chat messages."""

    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "fine-tune-sharegpt"
    summary: ClassVar[str] = "Conversations as ShareGPT writes them: who speaks in 'from', what is said in 'value'."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"conversations"}),)
    optional: ClassVar[frozenset[str]] = frozenset({"id", "system", "tools"})
    example: ClassVar[Mapping[str, Any]] = {
        "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    }

    def parse(self, row: Row) -> Conversation:
        turns = row["conversations"]
        if not isinstance(turns, list) or not turns:
            raise RowError("'conversations' must be an array with at least one message", code="invalid_messages")
        notices = self.unknown_keys(row)
        raw = [_message(turn, number) for number, turn in enumerate(turns, start=1)]
        if system := optional_string(row, "system"):
            raw.insert(0, {"role": "system", "content": system})
        messages, weights = parse_messages(raw, notices)
        return conversation(messages, weights, parse_row_tools({"tools": _tools(row.get("tools"))}), notices)


def _message(turn: Any, number: int) -> Row:
    """A turn as a chat message; keys that are not the format's pass on, to be noticed there."""
    if not isinstance(turn, dict):
        raise RowError(f"message {number} must be an object, not {kind(turn)}", code="invalid_messages")
    for key in ("from", "value"):
        if not isinstance(turn.get(key), str):
            raise RowError(
                f"message {number} '{key}' must be a string, not {kind(turn.get(key))}", code="invalid_messages"
            )
    speaker = turn["from"]
    if speaker not in ROLES:
        raise RowError(
            f"message {number} 'from' is '{shown(speaker)}', not one of {', '.join(ROLES)}", code="unknown_role"
        )
    message = {key: value for key, value in turn.items() if key not in TURN_KEYS}
    message |= {"role": ROLES[speaker], "content": turn["value"]}
    if message["role"] == "tool":
        message["tool_call_id"] = "call"
    return message | ({"weight": turn["weight"]} if "weight" in turn else {})


def _tools(raw: Any) -> Any:
    """Definitions of tools are often a string of JSON here."""
    if not isinstance(raw, str):
        return raw
    try:
        return msgspec.json.decode(raw) if raw.strip() else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise RowError(f"'tools' is not JSON: {shown(raw)}", code="invalid_tools") from None
