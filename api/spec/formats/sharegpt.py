"""ShareGPT's format: `{"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}`."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.base import Conversation, Format, Row, RowError, json_type, truncate
from api.spec.formats.chat import row_conversation
from api.spec.formats.json_text import decode_json_field
from api.spec.formats.speaker_roles import SPEAKER_ROLES, to_openai_message

CONVERSATION_KEYS = ("conversations", "conversation")


class ShareGpt(Format):
    """Conversations with ShareGPT's keys and speakers, which are converted to chat messages."""

    name: ClassVar[str] = "sharegpt"
    title: ClassVar[str] = "fine-tune-sharegpt"
    summary: ClassVar[str] = "Conversations as ShareGPT writes them: the speaker in 'from', the text in 'value'."
    required: ClassVar[tuple[frozenset[str], ...]] = tuple(frozenset({key}) for key in CONVERSATION_KEYS)
    optional: ClassVar[frozenset[str]] = frozenset({"id", "system", "tools"})
    example: ClassVar[Mapping[str, object]] = {
        "conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    }

    def parse(self, row: Row) -> Conversation:
        key = next(key for key in CONVERSATION_KEYS if row.get(key) is not None)
        turns = decode_json_field(row[key], key, "invalid_json")
        if not isinstance(turns, list) or not turns:
            raise RowError(f"'{key}' must be an array with at least one message", code="invalid_messages")
        raw = [_message(turn, number) for number, turn in enumerate(turns, start=1)]
        read = {key: value for key, value in row.items() if key in self.keys}
        return row_conversation(read, raw, self.unknown_key_warnings(row))


def _message(turn: object, number: int) -> Row:
    """Return a turn as a chat message. Unknown keys stay in it, and are reported with the messages."""
    if not isinstance(turn, dict):
        raise RowError(f"message {number} must be an object, not {json_type(turn)}", code="invalid_messages")
    speaker_key = "role" if "role" in turn else "from"
    if speaker_key not in turn:
        keys = ", ".join(f"'{truncate(key)}'" for key in list(turn)[:5])
        problem = f"message {number} has no 'from' to name its speaker, only {keys or 'no keys'}"
        raise RowError(problem, code="missing_role")
    for key in (speaker_key, "content" if "content" in turn or speaker_key == "role" else "value"):
        allowed = (str, list, type(None)) if key == "content" else str
        if not isinstance(turn.get(key), allowed):
            raise RowError(
                f"message {number} '{key}' must be a string, not {json_type(turn.get(key))}", code="invalid_messages"
            )
    speaker = turn[speaker_key]
    if speaker.strip().lower() not in SPEAKER_ROLES:
        raise RowError(
            f"message {number} '{speaker_key}' is '{truncate(speaker)}', not one of {', '.join(SPEAKER_ROLES)}",
            code="unknown_role",
        )
    try:
        message = to_openai_message(turn)
    except RowError as error:
        raise RowError(f"message {number} {error.message}", code=error.code) from None
    if message["role"] != "assistant" and not message.get("weight"):
        message.pop("weight", None)  # SlimOrca gives other roles the weight 0, which is their only weight here
    return message
