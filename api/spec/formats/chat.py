"""OpenAI's supervised format: `{"messages": […], "tools": […]}`."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.base import Conversation, Format, Messages, Row, RowError, RowWarning
from api.spec.formats.messages import is_empty, order_warnings, parse_messages, parse_row_tools, with_system


class Chat(Format):
    """Conversations, rendered by the base model's chat template."""

    name: ClassVar[str] = "chat"
    title: ClassVar[str] = "fine-tune-chat"
    summary: ClassVar[str] = "Conversations: messages with roles, optionally with tools."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"messages"}),)
    optional: ClassVar[frozenset[str]] = frozenset({"system", "tools", "parallel_tool_calls", "functions"})
    example: ClassVar[Mapping[str, object]] = {
        "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    }

    def parse(self, row: Row) -> Conversation:
        return row_conversation(row, row["messages"], self.unknown_key_warnings(row))


def row_conversation(row: Row, raw: object, warnings: list[RowWarning]) -> Conversation:
    """Return the conversation of the raw messages, with the row's system text and tools. Raises RowError if one of
    these is invalid, or if no message is supervised."""
    messages, weights = parse_messages(raw, warnings)
    whole = with_system(row, messages, warnings)
    weights = [0.0] * (len(whole) - len(messages)) + weights
    return supervised_conversation(whole, weights, parse_row_tools(row, warnings), warnings)


def supervised_conversation(
    messages: Messages, weights: list[float], tools: Messages | None, warnings: list[RowWarning]
) -> Conversation:
    """Return a conversation for supervised fine-tuning. Raises RowError if no message of it is supervised."""
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError(
            "has no message from the assistant, so nothing in it can be trained on", code="no_assistant_message"
        )
    if not any(weights):
        raise RowError(
            "gives every assistant message weight 0, so nothing in it can be trained on", code="nothing_to_learn"
        )
    for number, message in enumerate(messages, start=1):
        if is_empty(message):
            warnings.append(
                RowWarning("empty_answer", f"message {number} is empty, so the model learns to answer with nothing")
            )
    return Conversation(messages, weights, tools, [*warnings, *order_warnings(messages, tools)])
