"""A prompt and its answer, each a text or messages (TRL's two types): `{"prompt": …, "completion": …}`."""

from dataclasses import dataclass

from api.spec.formats.base import Messages, Row, RowError, RowWarning, Text, json_type
from api.spec.formats.json_text import find_messages
from api.spec.formats.messages import parse_messages, parse_row_tools
from api.spec.formats.prompt_parsing import json_warning, parse_prompt, with_answer

EXCHANGE_KEYS = frozenset({"system", "tools"})
"""Optional keys beside the prompt and the completion."""


@dataclass(frozen=True)
class Exchange:
    """The messages of a prompt and of its answer, with the loss weights of the answer's messages."""

    prompt: Messages
    answer: Messages
    weights: list[float]
    tools: Messages | None


def parse_exchange(row: Row, warnings: list[RowWarning]) -> Exchange | Text:
    """Return the row's prompt with its completion, or with its `response` if it has no completion. Raises RowError if
    one of them is invalid."""
    completion = row.get("completion")
    if completion is None:
        completion = row["response"]
        warnings.append(RowWarning("answer_key", "key 'response' is read as the completion"))
    prompt = parse_prompt(row, row["prompt"], warnings)
    if prompt.text is not None and isinstance(completion, str):
        # A completion that looks like the JSON of messages is kept as text, unless the prompt has messages, too.
        if row.get("tools"):
            message = "key 'tools' is ignored: only a prompt or completion of messages can have them"
            warnings.append(RowWarning("ignored_key", message))
        return with_answer(prompt, completion)
    answers = find_messages(completion)
    if isinstance(completion, str):
        if answers:
            warnings.append(json_warning("completion"))
        answers = answers or [{"role": "assistant", "content": completion}]
    if not isinstance(answers, list) and not isinstance(completion, list):
        raise RowError(
            f"'completion' must be a string or an array of messages, not {json_type(completion)}", code="invalid_type"
        )
    answer, weights = parse_messages(answers or completion, warnings, "completion", prompt.messages)
    return Exchange(prompt.messages, answer, weights, parse_row_tools({"tools": row.get("tools")}, warnings))
