"""Alpaca's format: `{"instruction": …, "input": …, "output": …}`."""

from collections.abc import Mapping
from typing import Any, ClassVar

from api.formats.base import Conversation, Either, Format, Notice, Passage, Row, optional_string, required_string

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
"""The prompts that models tuned on this format were given (Taori et al. 2023, Stanford Alpaca)."""
IGNORED = ("system", "history")


class Instruction(Format):
    """A question and its answer where the base model has a chat template; else Alpaca's prompt and a completion."""

    name: ClassVar[str] = "instruction"
    title: ClassVar[str] = "fine-tune-instruction"
    summary: ClassVar[str] = "Instructions, each with an output and optionally an input (Alpaca)."
    required: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"instruction", "output"}),)
    optional: ClassVar[frozenset[str]] = frozenset({"input", *IGNORED})
    example: ClassVar[Mapping[str, Any]] = {
        "instruction": "Translate to French.",
        "input": "Hello",
        "output": "Bonjour",
    }

    def parse(self, row: Row) -> Either:
        instruction, output = required_string(row, "instruction"), required_string(row, "output")
        context = optional_string(row, "input")
        notices = self.unknown_keys(row)
        notices += [Notice("ignored_key", f"key '{key}' is ignored in this format") for key in IGNORED if row.get(key)]
        if not output.strip():
            notices.append(Notice("empty_answer", "'output' is empty: the model learns to say nothing here"))
        question = f"{instruction}\n\n{context}" if context else instruction
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": output}]
        prompt = WITH_INPUT if context else WITHOUT_INPUT
        passage = Passage(prompt.format(instruction=instruction, input=context), output)
        return Either(Conversation(messages, [0.0, 1.0]), passage, notices)
