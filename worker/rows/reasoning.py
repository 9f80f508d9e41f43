"""The reasoning in an assistant's message: under a key of its own, or in tags at the head of its content."""

from dataclasses import dataclass
from typing import Any

from api.spec.formats import Conversation
from api.spec.recipe import Reasoning

OPENING, CLOSING = "<think>", "</think>"


@dataclass(frozen=True)
class Typed:
    """Where reasoning stands in a content."""

    start: int
    end: int
    """Of the reasoning itself, between the tags."""
    rest: int
    """Where what follows the closing tag begins."""


def typed_in(content: str) -> Typed | None:
    """Reasoning at the head of a content. Its opening tag may be absent: some generation prompts end with it."""
    end = content.rfind(CLOSING)
    if end < 0:
        return None
    head = content[:end].lstrip()
    start = end - len(head)
    if head.startswith(OPENING):
        start += len(OPENING)
    # Another block further on is no head: which of them a template would show is for the template to say.
    return None if OPENING in content[start:end] else Typed(start, end, end + len(CLOSING))


def reasoning_of(message: dict[str, Any]) -> str:
    """Without the white space around it; empty where there is none."""
    if message["role"] != "assistant":
        return ""
    if message.get("reasoning_content"):
        return str(message["reasoning_content"]).strip()
    content = message.get("content") or ""
    typed = typed_in(content)
    return content[typed.start : typed.end].strip() if typed else ""


def without_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant":
        return message
    bare = {key: value for key, value in message.items() if key != "reasoning_content"}
    typed = typed_in(bare.get("content") or "")
    if typed is None:
        return bare
    rest = bare["content"][typed.rest :].lstrip()
    if not rest and "tool_calls" in bare:
        del bare["content"]
        return bare
    return {**bare, "content": rest}


def chosen(conversation: Conversation, reasoning: Reasoning, *, take_apart: bool) -> list[dict[str, Any]]:
    """The messages with the reasoning that is to be rendered; `take_apart`: under its own key, so that a template with
    a form for it uses that."""
    messages = conversation.messages
    if reasoning == "auto":
        return messages
    users = [at for at, message in enumerate(messages) if message["role"] == "user"]
    first = {"keep": 0, "last": max(users, default=0), "drop": len(messages)}[reasoning]
    return [
        without_reasoning(message) if at < first else apart(message) if take_apart else message
        for at, message in enumerate(messages)
    ]


def apart(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under its own key."""
    said = reasoning_of(message)
    return {**without_reasoning(message), "reasoning_content": said} if said else message
