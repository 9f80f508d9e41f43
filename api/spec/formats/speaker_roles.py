"""Converts the names that files use for the speaker of a message to OpenAI's roles."""

from api.spec.formats.base import Row, RowError, RowWarning, json_type, truncate, warn_once
from api.spec.formats.calls import ANY_CALL
from api.spec.formats.json_text import parse_json_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""OpenAI's roles."""
SPEAKER_ROLES = {
    **{role: role for role in ROLES},
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "prompter": "user",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
"""{name of the speaker in lower case: role}"""
CALL_SPEAKERS = ("function_call", "tool_call")
"""Speakers whose content is tool calls as JSON."""


def normalize_message(raw: object, warnings: list[RowWarning], where: str) -> object:
    """Return a message with OpenAI's keys and roles, and add a warning if it had others. Anything else is returned
    unchanged."""
    if not isinstance(raw, dict):
        return raw
    speaker = raw.get("role", raw.get("from"))
    if (
        not isinstance(speaker, str)
        or ("role" in raw and speaker in ROLES)
        or speaker.strip().lower() not in SPEAKER_ROLES
    ):
        return raw
    message = to_openai_message(raw)
    text = (
        f"{where} is from '{truncate(speaker)}', which is read as role '{message['role']}', here and in other messages"
    )
    warn_once(warnings, "renamed_role", text)
    return message


def to_openai_message(turn: Row) -> Row:
    """Return a turn of a known speaker with `role` and `content` in place of `from` and `value`."""
    speaker = str(turn.get("role", turn.get("from"))).strip().lower()
    message = {key: value for key, value in turn.items() if key not in ("from", "value")}
    message |= {"role": SPEAKER_ROLES[speaker]}
    if "content" not in message and "value" in turn:
        message["content"] = turn["value"]
    if speaker in CALL_SPEAKERS:
        message["tool_calls"] = _calls_in(message.pop("content", None))
    if message["role"] == "tool" and "from" in turn:
        message.setdefault("tool_call_id", ANY_CALL)
    return message


def _calls_in(value: object) -> list[Row]:
    """Return the calls in the content of a message by one of CALL_SPEAKERS: the JSON of one call, or of an array of
    calls. Raises RowError for other content."""
    decoded = parse_json_text(value) if isinstance(value, str) else value
    calls = decoded if isinstance(decoded, list) else [decoded]
    if not calls or not all(isinstance(call, dict) for call in calls):
        expected = "JSON of the form {'name': …, 'arguments': {…}}"
        given = truncate(value) if isinstance(value, str) else json_type(value)
        raise RowError(f"is a function_call and must hold {expected}, not {given}", code="invalid_tool_calls")
    return [{"id": ANY_CALL, "type": "function", "function": call} for call in calls]
