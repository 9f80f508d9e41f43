"""Alpaca's format, `{"instruction": …, "input": …, "output": …}`, optionally with `system` and `history`; and questions
with answers under other keys."""

from collections.abc import Mapping
from typing import ClassVar

from api.spec.formats.alpaca import prompt_as_messages, prompt_as_text
from api.spec.formats.base import (
    ChatOrText,
    Conversation,
    Format,
    PromptCompletion,
    Row,
    RowWarning,
    present_keys,
    required_string,
)

QUESTIONS = ("question", "query", "input")
"""Keys that may replace `instruction` (GSM8K, OpenOrca, ms-swift). If a row has several, the first of these is read."""
ANSWERS = ("output", "response", "answer")
OTHER_FORMAT_KEYS = frozenset({"prompt", "completion", "messages", "conversations", "conversation", "text", "chosen"})
"""Keys of other formats. If a row has one of them, a question and an answer are not enough to give it this format."""


class Instruction(Format):
    """An instruction with its answer: a conversation if the base model has a chat template, else Alpaca's prompt with a
    completion.

    With a chat template, the answers in `history` are supervised, too.
    """

    name: ClassVar[str] = "instruction"
    title: ClassVar[str] = "fine-tune-instruction"
    summary: ClassVar[str] = "Instructions, each with an output and optionally an input (Alpaca)."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"instruction", "output"}),
        frozenset({"instruction", "response"}),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"context", "system", "history", *QUESTIONS, *ANSWERS})
    example: ClassVar[Mapping[str, object]] = {
        "instruction": "Translate to French.",
        "input": "Hello",
        "output": "Bonjour",
    }

    def matches(self, row: Row) -> bool:
        present = present_keys(row)
        has_question = bool(present.intersection(("instruction", *QUESTIONS))) and not present & OTHER_FORMAT_KEYS
        return super().matches(row) or (has_question and bool(present.intersection(ANSWERS)))

    def parse(self, row: Row) -> ChatOrText:
        warnings = self.unknown_key_warnings(row)
        row = _to_alpaca_keys(row, warnings)
        instruction, output = required_string(row, "instruction"), required_string(row, "output")
        if not output.strip():
            warnings.append(RowWarning("empty_answer", "'output' is empty, so the model learns to answer with nothing"))
        messages = [*prompt_as_messages(row, instruction), {"role": "assistant", "content": output}]
        weights = [float(message["role"] == "assistant") for message in messages]
        plain = PromptCompletion(prompt_as_text(row, instruction), output)
        return ChatOrText(Conversation(messages, weights), plain, warnings)


def _to_alpaca_keys(row: Row, warnings: list[RowWarning]) -> Row:
    """Return the row with the keys instruction, input and output in place of their alternatives."""
    names = {"output": ANSWERS, "input": ("input", "context"), "instruction": ("instruction", *QUESTIONS)}
    if row.get("instruction") is not None:
        names["instruction"] = ("instruction", "question", "query")  # `input` is then a part of the instruction
    elif all(row.get(key) is None for key in ("question", "query")):
        names["input"] = ("context",)
    renamed = {key: value for key, value in row.items() if key not in ("input", "output", "instruction")}
    for key, others in names.items():
        given = [other for other in others if row.get(other) is not None]
        renamed |= {key: row[given[0]]} if given else {}
        for number, other in enumerate(given):
            if number:
                warnings.append(RowWarning("ignored_key", f"key '{other}' is ignored beside '{given[0]}'"))
            elif other != key:
                warnings.append(RowWarning("answer_key", f"key '{other}' is read as '{key}'"))
    return renamed
