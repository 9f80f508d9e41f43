"""Prompts to answer: `{"messages": […], …}` that ends where the assistant is to speak, or `{"prompt": …, …}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.asked import asked_by_prompt
from api.spec.formats.base import ChatOrText, Format, Prompt, PromptCompletion, Row, RowError, RowWarning
from api.spec.formats.calls import Messages
from api.spec.formats.messages import given, order_notices, parse_messages, parse_row_tools, with_system


class Prompts(Format):
    """Whatever else stands in a row is for its grader, as `item`."""

    name: ClassVar[str] = "prompts"
    has_answers: ClassVar[bool] = False
    title: ClassVar[str] = "fine-tune-prompts"
    summary: ClassVar[str] = "Prompts that the model answers itself; further keys are what a grader may look at."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"messages"}), frozenset({"prompt"}))
    optional: ClassVar[frozenset[str]] = frozenset({"system", "tools", "parallel_tool_calls", "functions"})
    example: ClassVar[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "2 + 2?"}], "reference": "4"}

    def parse(self, row: Row) -> Prompt:
        notices: list[RowWarning] = []
        if row.get("messages") is None:
            return self._parse_prompt(row, notices)
        messages, _ = parse_messages(row["messages"], notices)
        return self._prompt(row, with_system(row, messages, notices), notices)

    def _parse_prompt(self, row: Row, notices: list[RowWarning]) -> Prompt:
        asked = asked_by_prompt(row, row["prompt"], notices)
        if asked.text is None:
            return self._prompt(row, asked.messages, notices)
        if not asked.text.strip():
            raise RowError("'prompt' is empty, so there is nothing to answer", code="empty_prompt")
        passage = PromptCompletion(asked.text, "")
        return Prompt(ChatOrText(given(asked.messages, None), passage) if asked.templated else passage, row, notices)

    def _prompt(self, row: Row, messages: Messages, notices: list[RowWarning]) -> Prompt:
        if messages[-1]["role"] == "assistant":
            raise RowError(
                "ends with a message from the assistant. The model is to answer it itself: end with the user's (or a "
                "tool's) message, and put a reference answer under a key of its own",
                code="answered_prompt",
            )
        tools = parse_row_tools(row, notices)
        return Prompt(given(messages, tools), row, [*notices, *order_notices(messages, tools)])
