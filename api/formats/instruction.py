"""Alpaca's format: `{"instruction": …, "input": …, "output": …}`, optionally with `system` and `history`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.alpaca import asked_as_chat, asked_as_text
from api.formats.base import Conversation, Either, Format, Notice, Passage, Row, required_string


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
    optional: ClassVar[frozenset[str]] = frozenset({"input", "context", "system", "history"})
    example: ClassVar[Mapping[str, Any]] = {
        "instruction": "Translate to French.",
        "input": "Hello",
        "output": "Bonjour",
    }

    def parse(self, row: Row) -> Either:
        notices = self.unknown_keys(row)
        row = _in_alpacas_keys(row, notices)
        instruction, output = required_string(row, "instruction"), required_string(row, "output")
        if not output.strip():
            notices.append(Notice("empty_answer", "'output' is empty: the model learns to say nothing here"))
        messages = [*asked_as_chat(row, instruction), {"role": "assistant", "content": output}]
        weights = [float(message["role"] == "assistant") for message in messages]
        passage = Passage(asked_as_text(row, instruction), output)
        return Either(Conversation(messages, weights), passage, notices)


def _in_alpacas_keys(row: Row, notices: list[Notice]) -> Row:
    """The row with an output and an input, which Dolly calls response and context."""
    renamed = dict(row)
    for key, other in (("output", "response"), ("input", "context")):
        if row.get(other) is not None:
            used = row.get(key) is None
            renamed |= {key: row[other]} if used else {}
            words = f"is read as '{key}'" if used else f"is ignored beside '{key}'"
            notices.append(Notice("answer_key" if used else "ignored_key", f"key '{other}' {words}"))
    return renamed
