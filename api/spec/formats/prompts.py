"""Prompts to answer: `{"messages": […], …}` ending before the assistant's turn, or `{"prompt": …, …}`."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.base import ChatOrText, Format, Messages, Prompt, PromptCompletion, Row, RowError, RowWarning
from api.spec.formats.messages import (
    order_warnings,
    parse_messages,
    parse_row_tools,
    unsupervised_conversation,
    with_system,
)
from api.spec.formats.prompt_parsing import parse_prompt


class Prompts(Format):
    """Prompts that the model answers. The grader reads the other keys of a row as `item`."""

    name: ClassVar[str] = "prompts"
    has_answers: ClassVar[bool] = False
    title: ClassVar[str] = "fine-tune-prompts"
    summary: ClassVar[str] = "Prompts that the model answers itself; its grader may read the other keys."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"messages"}), frozenset({"prompt"}))
    optional: ClassVar[frozenset[str]] = frozenset({"system", "tools", "parallel_tool_calls", "functions"})
    example: ClassVar[Mapping[str, object]] = {"messages": [{"role": "user", "content": "2 + 2?"}], "reference": "4"}

    def parse(self, row: Row) -> Prompt:
        warnings: list[RowWarning] = []
        if row.get("messages") is None:
            return self._parse_prompt(row, warnings)
        messages, _ = parse_messages(row["messages"], warnings)
        return self._prompt(row, with_system(row, messages, warnings), warnings)

    def _parse_prompt(self, row: Row, warnings: list[RowWarning]) -> Prompt:
        prompt = parse_prompt(row, row["prompt"], warnings)
        if prompt.text is None:
            return self._prompt(row, prompt.messages, warnings)
        if not prompt.text.strip():
            raise RowError("'prompt' is empty, so there is nothing to answer", code="empty_prompt")
        plain = PromptCompletion(prompt.text, "")
        return Prompt(
            ChatOrText(unsupervised_conversation(prompt.messages, None), plain) if prompt.templated else plain,
            row,
            warnings,
        )

    def _prompt(self, row: Row, messages: Messages, warnings: list[RowWarning]) -> Prompt:
        if messages[-1]["role"] == "assistant":
            raise RowError(
                "ends with a message from the assistant, which the model itself must write: end with the user's (or a "
                "tool's) message, and put a reference answer under another key",
                code="answered_prompt",
            )
        tools = parse_row_tools(row, warnings)
        return Prompt(unsupervised_conversation(messages, tools), row, [*warnings, *order_warnings(messages, tools)])
