"""OpenAI's supervised format: `{"messages": […], "tools": […]}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.base import Conversation, Format, Row, RowError, RowWarning
from api.spec.formats.calls import Messages
from api.spec.formats.messages import is_empty, order_notices, parse_messages, parse_row_tools, with_system


class Chat(Format):
    """Conversations, rendered by the base model's own chat template."""

    name: ClassVar[str] = "chat"
    title: ClassVar[str] = "fine-tune-chat"
    summary: ClassVar[str] = "Conversations: messages with roles, optionally with tools."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"messages"}),)
    optional: ClassVar[frozenset[str]] = frozenset({"system", "tools", "parallel_tool_calls", "functions"})
    example: ClassVar[Mapping[str, Any]] = {
        "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    }

    def parse(self, row: Row) -> Conversation:
        notices = self.unknown_keys(row)
        messages, weights = parse_messages(row["messages"], notices)
        whole = with_system(row, messages, notices)
        weights = [0.0] * (len(whole) - len(messages)) + weights
        return conversation(whole, weights, parse_row_tools(row, notices), notices)


def conversation(
    messages: Messages, weights: list[float], tools: Messages | None, notices: list[RowWarning]
) -> Conversation:
    """A conversation to imitate; RowError if it holds nothing to learn."""
    if not any(message["role"] == "assistant" for message in messages):
        raise RowError("has no message from the assistant, so there is nothing to learn", code="no_assistant_message")
    if not any(weights):
        raise RowError("gives every assistant message weight 0, so there is nothing to learn", code="nothing_to_learn")
    for number, message in enumerate(messages, start=1):
        if is_empty(message):
            notices.append(
                RowWarning("empty_answer", f"message {number} is empty: the model learns to say nothing there")
            )
    return Conversation(messages, weights, tools, [*notices, *order_notices(messages, tools)])
