"""Prompts to answer: `{"messages": […], …}` that ends where the assistant is to speak, or `{"prompt": …, …}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import Format, Notice, Passage, Prompt, Row, RowError, required_string
from api.formats.messages import given, order_notices, parse_messages, parse_row_tools


class Prompts(Format):
    """Whatever else stands in a row is for its grader, as `item`."""

    name: ClassVar[str] = "prompts"
    title: ClassVar[str] = "fine-tune-prompts"
    summary: ClassVar[str] = "Prompts that the model answers itself; further keys are what a grader may look at."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"messages"}), frozenset({"prompt"}))
    optional: ClassVar[frozenset[str]] = frozenset({"tools", "parallel_tool_calls", "functions"})
    example: ClassVar[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "2 + 2?"}], "reference": "4"}

    def parse(self, row: Row) -> Prompt:
        if "messages" not in row:
            prompt = required_string(row, "prompt")
            if not prompt.strip():
                raise RowError("'prompt' is empty, so there is nothing to answer", code="empty_prompt")
            return Prompt(Passage(prompt, ""), row)
        notices: list[Notice] = []
        messages, _ = parse_messages(row["messages"], notices)
        if messages[-1]["role"] == "assistant":
            raise RowError(
                "ends with a message from the assistant. The model is to answer it itself: end with the user's (or a "
                "tool's) message, and put a reference answer under a key of its own",
                code="answered_prompt",
            )
        return Prompt(given(messages, parse_row_tools(row)), row, [*notices, *order_notices(messages)])
