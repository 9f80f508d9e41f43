"""Prompts in Alpaca's rows: an instruction, an input, a system text, earlier turns."""

from api.spec.formats.base import Messages, Row, RowError, optional_string
from api.spec.formats.json_text import decode_json_field

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
"""The two prompt texts that Alpaca was fine-tuned with (Taori et al. 2023, Stanford Alpaca)."""


def parse_history(row: Row) -> list[tuple[str, str]]:
    """Return the earlier turns of the row, `[["question", "answer"], …]`. Raises RowError if `history` has another
    form."""
    raw = decode_json_field(row.get("history"), "history", "invalid_history")
    if raw is None:
        return []
    if not isinstance(raw, list) or not all(map(_is_turn, raw)):
        raise RowError("'history' must be an array of [question, answer] pairs of strings", code="invalid_history")
    return [(question, answer) for question, answer in raw]


def _is_turn(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def prompt_as_messages(row: Row, question: str) -> Messages:
    """Return the messages before the answer: the system text, the earlier turns, the question with its input."""
    context, system = optional_string(row, "input"), optional_string(row, "system")
    messages = [{"role": "system", "content": system}] if system else []
    for earlier, answer in parse_history(row):
        messages += [{"role": "user", "content": earlier}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": "\n\n".join(filter(None, (question, context)))}]


def prompt_as_text(row: Row, question: str) -> str:
    """Return the prompt as Alpaca writes it. The row's system text, if there is one, replaces Alpaca's introduction."""
    context = optional_string(row, "input")
    introduction = optional_string(row, "system") or (WITH_INPUT if context else WITHOUT_INPUT)
    turns = [f"### Instruction:\n{earlier}\n\n### Response:\n{answer}\n\n" for earlier, answer in parse_history(row)]
    written_input = f"### Input:\n{context}\n\n" if context else ""
    return f"{introduction}\n\n{''.join(turns)}### Instruction:\n{question}\n\n{written_input}### Response:\n"
