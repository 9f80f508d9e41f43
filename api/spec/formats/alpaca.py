"""A question as Alpaca's rows write it: an instruction, an input, a system text, earlier turns."""

from typing import Any

from api.spec.formats.base import Row, RowError, optional_string
from api.spec.formats.calls import Messages
from api.spec.formats.structured import structured

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
"""What the prompts of models tuned on this format began with (Taori et al. 2023, Stanford Alpaca)."""


def parse_history(row: Row) -> list[tuple[str, str]]:
    """Earlier turns: `[["question", "answer"], …]`."""
    raw = structured(row.get("history"), "history", "invalid_history")
    if raw is None:
        return []
    if not isinstance(raw, list) or not all(map(_is_turn, raw)):
        raise RowError("'history' must be an array of [question, answer], two strings each", code="invalid_history")
    return [(question, answer) for question, answer in raw]


def _is_turn(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(each, str) for each in value)


def asked_as_chat(row: Row, question: str) -> Messages:
    """The messages before the answer: the system's, the earlier turns', the question with its input."""
    context, system = optional_string(row, "input"), optional_string(row, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for earlier, answer in parse_history(row):
        messages += [{"role": "user", "content": earlier}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": "\n\n".join(filter(None, (question, context)))}]


def asked_as_text(row: Row, question: str) -> str:
    """The same as Alpaca's prompt; a system text stands in place of its first sentences."""
    context = optional_string(row, "input")
    beginning = optional_string(row, "system") or (WITH_INPUT if context else WITHOUT_INPUT)
    turns = [f"### Instruction:\n{earlier}\n\n### Response:\n{answer}\n\n" for earlier, answer in parse_history(row)]
    given = f"### Input:\n{context}\n\n" if context else ""
    return f"{beginning}\n\n{''.join(turns)}### Instruction:\n{question}\n\n{given}### Response:\n"
