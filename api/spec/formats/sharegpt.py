"""ShareGPT's format: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.base import Conversation, Format, Row, RowError, kind, truncate
from api.spec.formats.chat import conversation
from api.spec.formats.messages import parse_messages, parse_row_tools, with_system
from api.spec.formats.speakers import SPEAKERS, in_openais_names
from api.spec.formats.structured import structured

CONVERSATION_KEYS = ("conversations", "conversation")


class ShareGpt(Format):
    """Conversations under other names: turned into chat messages."""

    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "fine-tune-sharegpt"
    summary: ClassVar[str] = "Conversations as ShareGPT writes them: who speaks in 'from', what is said in 'value'."
    required: ClassVar[tuple[frozenset[str], ...]] = tuple(frozenset({key}) for key in CONVERSATION_KEYS)
    optional: ClassVar[frozenset[str]] = frozenset({"id", "system", "tools"})
    example: ClassVar[Mapping[str, Any]] = {
        "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    }

    def parse(self, row: Row) -> Conversation:
        key = next(key for key in CONVERSATION_KEYS if row.get(key) is not None)
        turns = structured(row[key], key, "invalid_json")
        if not isinstance(turns, list) or not turns:
            raise RowError(f"'{key}' must be an array with at least one message", code="invalid_messages")
        notices = self.unknown_keys(row)
        raw = [_message(turn, number) for number, turn in enumerate(turns, start=1)]
        messages, weights = parse_messages(raw, notices)
        whole = with_system(row, messages, notices)
        weights = [0.0] * (len(whole) - len(messages)) + weights
        return conversation(whole, weights, parse_row_tools({"tools": row.get("tools")}, notices), notices)


def _message(turn: Any, number: int) -> Row:
    """A turn as a chat message; keys that are not the format's pass on, to be noticed there."""
    if not isinstance(turn, dict):
        raise RowError(f"message {number} must be an object, not {kind(turn)}", code="invalid_messages")
    speaker_key = "role" if "role" in turn else "from"
    if speaker_key not in turn:
        keys = ", ".join(f"'{truncate(key)}'" for key in list(turn)[:5])
        problem = f"message {number} has no 'from' that says who speaks, only {keys or 'nothing'}"
        raise RowError(problem, code="missing_role")
    for key in (speaker_key, "content" if "content" in turn or speaker_key == "role" else "value"):
        allowed = (str, list, type(None)) if key == "content" else str
        if not isinstance(turn.get(key), allowed):
            raise RowError(
                f"message {number} '{key}' must be a string, not {kind(turn.get(key))}", code="invalid_messages"
            )
    speaker = turn[speaker_key]
    if speaker.strip().lower() not in SPEAKERS:
        raise RowError(
            f"message {number} '{speaker_key}' is '{truncate(speaker)}', not one of {', '.join(SPEAKERS)}",
            code="unknown_role",
        )
    try:
        message = in_openais_names(turn)
    except RowError as error:
        raise RowError(f"message {number} {error.message}", code=error.code) from None
    if message["role"] != "assistant" and not message.get("weight"):
        message.pop("weight", None)  # SlimOrca writes that nobody else is learnt from, which holds anyway
    return message
