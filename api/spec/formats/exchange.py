"""A prompt and its answer, each a text or messages (TRL's two types): `{"prompt": …, "completion": …}`."""

from dataclasses import dataclass

from api.spec.formats.asked import as_text, asked_by_prompt, json_notice
from api.spec.formats.base import Row, RowError, RowWarning, Text, kind
from api.spec.formats.calls import Messages
from api.spec.formats.messages import parse_messages, parse_row_tools
from api.spec.formats.structured import messages_in

EXCHANGE_KEYS = frozenset({"system", "tools"})
"""Read beside the prompt and the completion."""


@dataclass(frozen=True)
class Exchange:
    """Messages that are given, and messages that answer, with the weights of the latter."""

    given: Messages
    answer: Messages
    weights: list[float]
    tools: Messages | None


def parse_exchange(row: Row, notices: list[RowWarning]) -> Exchange | Text:
    """What the row's `prompt` and `completion` mean. RowError if they mean nothing."""
    prompt, completion = row["prompt"], row["completion"]
    asked = asked_by_prompt(row, prompt, notices)
    # Texts that look like messages are an answer's own words, unless the prompt is of messages, too.
    answers = messages_in(completion) if asked.text is None or not isinstance(completion, str) else None
    if answers is None and isinstance(completion, str) and asked.text is not None:
        if row.get("tools"):
            words = "key 'tools' is ignored: only a prompt or completion of messages can have them"
            notices.append(RowWarning("ignored_key", words))
        return as_text(asked, completion)
    if isinstance(completion, str):
        if answers:
            notices.append(json_notice("completion"))
        answers = answers or [{"role": "assistant", "content": completion}]
    if not isinstance(answers, list) and not isinstance(completion, list):
        raise RowError(
            f"'completion' must be a string or an array of messages, not {kind(completion)}", code="invalid_type"
        )
    answer, weights = parse_messages(answers or completion, notices, "completion", asked.messages)
    return Exchange(asked.messages, answer, weights, parse_row_tools({"tools": row.get("tools")}, notices))
