"""Who speaks in a message, under the names that files give them."""

from typing import Any

from api.spec.formats.base import Row, RowError, RowWarning, kind, notice_once, truncate
from api.spec.formats.calls import ANY_CALL
from api.spec.formats.structured import structure_in

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""OpenAI's."""
SPEAKERS = {
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
CALLS = ("function_call", "tool_call")
"""Speakers whose words are calls, as JSON."""
"""Names of speakers, in lower case, and the roles that they stand for."""


def openai_message(raw: Any, notices: list[RowWarning], where: str) -> Any:
    """Return a message with OpenAI's keys and roles, with a notice where it has others; whatever else as it is."""
    if not isinstance(raw, dict):
        return raw
    speaker = raw.get("role", raw.get("from"))
    if not isinstance(speaker, str) or ("role" in raw and speaker in ROLES) or speaker.strip().lower() not in SPEAKERS:
        return raw
    message = in_openais_names(raw)
    words = f"{where} is from '{truncate(speaker)}', read as role '{message['role']}'; so are others of such names"
    notice_once(notices, "renamed_role", words)
    return message


def in_openais_names(turn: Row) -> Row:
    """Return a turn of a known speaker with 'role' and 'content' in place of 'from' and 'value'."""
    speaker = str(turn.get("role", turn.get("from"))).strip().lower()
    message = {key: value for key, value in turn.items() if key not in ("from", "value")}
    message |= {"role": SPEAKERS[speaker]}
    if "content" not in message and "value" in turn:
        message["content"] = turn["value"]
    if speaker in CALLS:
        message["tool_calls"] = _calls_in(message.pop("content", None))
    if message["role"] == "tool" and "from" in turn:
        message.setdefault("tool_call_id", ANY_CALL)
    return message


def _calls_in(value: Any) -> list[Row]:
    """The calls that a turn of 'function_call' holds as JSON, one or an array."""
    found = structure_in(value) if isinstance(value, str) else value
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) for call in calls):
        expected = "JSON of the form {'name': …, 'arguments': {…}}"
        given = truncate(value) if isinstance(value, str) else kind(value)
        raise RowError(f"is a function_call and must hold {expected}, not {given}", code="invalid_tool_calls")
    return [{"id": ANY_CALL, "type": "function", "function": call} for call in calls]
