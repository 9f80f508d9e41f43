"""Alpaca's format: `{"instruction": …, "input": …, "output": …}`, optionally with `system` and `history`; and rows of a
question and its answer under the other names that they go by."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.spec.formats.alpaca import asked_as_chat, asked_as_text
from api.spec.formats.base import (
    ChatOrText,
    Conversation,
    Format,
    PromptCompletion,
    Row,
    RowWarning,
    given_keys,
    required_string,
)

QUESTIONS = ("question", "query", "input")
"""Keys of the instruction where there is none (GSM8K, OpenOrca, ms-swift); the first that a row has is read."""
ANSWERS = ("output", "response", "answer")
READ_ELSEWHERE = frozenset({"prompt", "completion", "messages", "conversations", "conversation", "text", "chosen"})
"""Keys that show another format, beside which a question and an answer are something else."""


class Instruction(Format):
    """A question and its answer where the base model has a chat template; else Alpaca's prompt and a completion.

    The answers of `history` are learnt, too, where there is a template.
    """

    name: ClassVar[str] = "instruction"
    title: ClassVar[str] = "fine-tune-instruction"
    summary: ClassVar[str] = "Instructions, each with an output and optionally an input (Alpaca)."
    required: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"instruction", "output"}),
        frozenset({"instruction", "response"}),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"context", "system", "history", *QUESTIONS, *ANSWERS})
    example: ClassVar[Mapping[str, Any]] = {
        "instruction": "Translate to French.",
        "input": "Hello",
        "output": "Bonjour",
    }

    def matches(self, row: Row) -> bool:
        present = given_keys(row)
        asked = bool(present.intersection(("instruction", *QUESTIONS))) and not present & READ_ELSEWHERE
        return super().matches(row) or (asked and bool(present.intersection(ANSWERS)))

    def parse(self, row: Row) -> ChatOrText:
        notices = self.unknown_keys(row)
        row = _in_alpacas_keys(row, notices)
        instruction, output = required_string(row, "instruction"), required_string(row, "output")
        if not output.strip():
            notices.append(RowWarning("empty_answer", "'output' is empty: the model learns to say nothing here"))
        messages = [*asked_as_chat(row, instruction), {"role": "assistant", "content": output}]
        weights = [float(message["role"] == "assistant") for message in messages]
        passage = PromptCompletion(asked_as_text(row, instruction), output)
        return ChatOrText(Conversation(messages, weights), passage, notices)


def _in_alpacas_keys(row: Row, notices: list[RowWarning]) -> Row:
    """The row with an instruction, an input and an output, under whatever keys it has them."""
    names = {"output": ANSWERS, "input": ("input", "context"), "instruction": ("instruction", *QUESTIONS)}
    if row.get("instruction") is not None:
        names["instruction"] = ("instruction", "question", "query")  # its input belongs to it
    elif all(row.get(key) is None for key in ("question", "query")):
        names["input"] = ("context",)
    renamed = {key: value for key, value in row.items() if key not in ("input", "output", "instruction")}
    for key, others in names.items():
        given = [other for other in others if row.get(other) is not None]
        renamed |= {key: row[given[0]]} if given else {}
        for number, other in enumerate(given):
            if number:
                notices.append(RowWarning("ignored_key", f"key '{other}' is ignored beside '{given[0]}'"))
            elif other != key:
                notices.append(RowWarning("answer_key", f"key '{other}' is read as '{key}'"))
    return renamed
