"""Ids for tool calls without one: the calls in Hugging Face's files have no ids, those in OpenAI's always do."""

import itertools
from collections.abc import Sequence

from api.spec.fields import JsonObject
from api.spec.formats.base import Messages, Row, RowError, RowWarning, truncate

ANY_CALL = "call00000"
"""Placeholder for the id of a call or of a tool's result in formats that have no ids. `link_calls` replaces it."""
MISSING = ""
"""Placeholder for an id that the format has but the row lacks. `link_calls` replaces it and adds a warning."""


def link_calls(messages: Messages, warnings: list[RowWarning], where: str = "", before: Sequence[Row] = ()) -> None:
    """Give each call without an id a new id, and each tool result without an id the id of the call that it answers.

    A result answers the first unanswered call of the function that it names, else the first unanswered call. `before`:
    earlier messages, which have ids already. Raises RowError for a result that follows no call. The new ids have nine
    letters and digits, the only form that Mistral's templates accept.
    """
    whole = [*before, *messages]
    taken = {call["id"] for message in whole for call in message.get("tool_calls", ())}
    free = (name for number in itertools.count(1) if (name := f"call{number:05d}") not in taken)
    waiting: list[JsonObject] = []
    missing = False
    for number, message in enumerate(whole, start=1 - len(before)):
        if "tool_calls" in message:
            waiting = list(message["tool_calls"])
        for call in message.get("tool_calls", ()):
            if call["id"] in (MISSING, ANY_CALL):
                missing = missing or call["id"] == MISSING
                call["id"] = next(free)
        if message["role"] != "tool":
            continue
        answered = _answered_call(message, waiting)
        if message["tool_call_id"] in (MISSING, ANY_CALL):
            missing = missing or message["tool_call_id"] == MISSING
            if answered is not None:
                message["tool_call_id"] = answered["id"]
            elif message["tool_call_id"] == MISSING:
                problem = f"{where}message {number} must have a 'tool_call_id' (a string)"
                raise RowError(problem, code="missing_tool_call_id")
        waiting = [call for call in waiting if call is not answered]
    if missing:
        warnings.append(
            RowWarning("call_ids", f"{where}tool calls without an 'id' get the ids call00001, call00002, …")
        )


def call_warnings(messages: Messages, tools: Messages | None) -> list[RowWarning]:
    """Return warnings about calls of tools that the row does not define, and about tool results that answer no earlier
    call."""
    defined = {tool["function"]["name"] for tool in tools or ()}
    call_ids: set[str] = set()
    warnings = []
    for number, message in enumerate(messages, start=1):
        for call in message.get("tool_calls", ()):
            call_ids.add(call["id"])
            if (name := call["function"]["name"]) not in defined:
                problem = f"message {number} calls '{truncate(name)}', which the row's tools do not define"
                warnings.append(RowWarning("undefined_tool", problem))
        # A result without an id is not reported, because it may answer a call in the plain text of a message.
        if message["role"] == "tool" and message["tool_call_id"] not in call_ids | {ANY_CALL}:
            call = truncate(message["tool_call_id"])
            problem = f"message {number} is the result of the call '{call}', which no earlier message makes"
            warnings.append(RowWarning("unknown_tool_call", problem))
    return warnings


def _answered_call(message: JsonObject, waiting: list[JsonObject]) -> JsonObject | None:
    if message["tool_call_id"] not in (MISSING, ANY_CALL):
        return next((call for call in waiting if call["id"] == message["tool_call_id"]), None)
    named = (call for call in waiting if call["function"]["name"] == message.get("name"))
    return next(named, waiting[0] if waiting else None)
