"""Ids of tool calls, where a row leaves them out: Hugging Face's files have none, OpenAI's always do."""

import itertools
from collections.abc import Sequence
from typing import Any

from api.spec.formats.base import Row, RowError, RowWarning, truncate

Messages = list[dict[str, Any]]

ANY_CALL = "call00000"
"""Id of a call, or of an answer to one, in the formats that have no ids at all."""
MISSING = ""


def link_calls(messages: Messages, notices: list[RowWarning], where: str = "", before: Sequence[Row] = ()) -> None:
    """Give calls without an id one, and answers without one that of the call they answer: the first of their name that
    waits for its answer, or the first at all. `before`: messages that come earlier and have their ids. Raise RowError
    for an answer that follows no call.

    The ids have nine letters and digits, the only ones that Mistral's templates take.
    """
    whole = [*before, *messages]
    taken = {call["id"] for message in whole for call in message.get("tool_calls", ())}
    free = (name for number in itertools.count(1) if (name := f"call{number:05d}") not in taken)
    waiting: list[dict[str, Any]] = []
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
        answered = _answered(message, waiting)
        if message["tool_call_id"] in (MISSING, ANY_CALL):
            missing = missing or message["tool_call_id"] == MISSING
            if answered is not None:
                message["tool_call_id"] = answered["id"]
            elif message["tool_call_id"] == MISSING:
                problem = f"{where}message {number} must have a 'tool_call_id' (a string)"
                raise RowError(problem, code="missing_tool_call_id")
        waiting = [call for call in waiting if call is not answered]
    if missing:
        notices.append(RowWarning("call_ids", f"{where}tool calls without an 'id' are numbered: call00001 and so on"))


def call_notices(messages: Messages, tools: Messages | None) -> list[RowWarning]:
    """Calls of tools that the row does not define, and answers to calls that nothing made."""
    defined = {tool["function"]["name"] for tool in tools or ()}
    made: set[str] = set()
    notices = []
    for number, message in enumerate(messages, start=1):
        for call in message.get("tool_calls", ()):
            made.add(call["id"])
            if (name := call["function"]["name"]) not in defined:
                problem = f"message {number} calls '{truncate(name)}', which the row's tools do not define"
                notices.append(RowWarning("undefined_tool", problem))
        # An answer without an id may follow calls that a text makes in its own words.
        if message["role"] == "tool" and message["tool_call_id"] not in made | {ANY_CALL}:
            call = truncate(message["tool_call_id"])
            problem = f"message {number} answers the call '{call}', which no message before makes"
            notices.append(RowWarning("unknown_tool_call", problem))
    return notices


def _answered(message: dict[str, Any], waiting: list[dict[str, Any]]) -> dict[str, Any] | None:
    if message["tool_call_id"] not in (MISSING, ANY_CALL):
        return next((call for call in waiting if call["id"] == message["tool_call_id"]), None)
    named = (call for call in waiting if call["function"]["name"] == message.get("name"))
    return next(named, waiting[0] if waiting else None)
