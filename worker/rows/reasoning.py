"""The reasoning in an assistant's message: under its own key, or in tags at the beginning of its content."""

from dataclasses import dataclass

from api.spec.formats import Conversation, Message, Messages
from api.spec.recipe import Reasoning

OPENING, CLOSING = "<think>", "</think>"


@dataclass(frozen=True)
class InlineReasoning:
    """The position of the reasoning in the text of an assistant's message."""

    start: int
    end: int
    """The end of the reasoning itself, without the tags."""
    rest: int
    """The beginning of the text after the closing tag."""


def find_inline_reasoning(content: str) -> InlineReasoning | None:
    """Return the position of the reasoning at the beginning of a content, or None. The opening tag may be absent,
    because some generation prompts end with it."""
    end = content.rfind(CLOSING)
    if end < 0:
        return None
    head = content[:end].lstrip()
    start = end - len(head)
    if head.startswith(OPENING):
        start += len(OPENING)
    # If there is another block inside, it is unknown which of them a template shows.
    return None if OPENING in content[start:end] else InlineReasoning(start, end, end + len(CLOSING))


def reasoning_of(message: Message) -> str:
    """Return the message's reasoning without surrounding white space; empty if there is none."""
    if message["role"] != "assistant":
        return ""
    if message.get("reasoning_content"):
        return str(message["reasoning_content"]).strip()
    content = message.get("content") or ""
    inline = find_inline_reasoning(content)
    return content[inline.start : inline.end].strip() if inline else ""


def without_reasoning(message: Message) -> Message:
    """Return the message without its reasoning."""
    if message["role"] != "assistant":
        return message
    bare = {key: value for key, value in message.items() if key != "reasoning_content"}
    inline = find_inline_reasoning(bare.get("content") or "")
    if inline is None:
        return bare
    rest = bare["content"][inline.rest :].lstrip()
    if not rest and "tool_calls" in bare:
        del bare["content"]
        return bare
    return {**bare, "content": rest}


def select_reasoning(conversation: Conversation, reasoning: Reasoning, *, separate: bool) -> Messages:
    """Return the conversation's messages without the reasoning that the setting `reasoning` leaves out.

    `separate`: put the reasoning under its own key, for templates that read that key.
    """
    messages = conversation.messages
    if reasoning == "auto":
        return messages
    users = [at for at, message in enumerate(messages) if message["role"] == "user"]
    first = {"keep": 0, "last": max(users, default=0), "drop": len(messages)}[reasoning]
    return [
        without_reasoning(message) if at < first else separate_reasoning(message) if separate else message
        for at, message in enumerate(messages)
    ]


def separate_reasoning(message: Message) -> Message:
    """Return the message with its reasoning under the key `reasoning_content`, not in the content."""
    reasoning = reasoning_of(message)
    return {**without_reasoning(message), "reasoning_content": reasoning} if reasoning else message
