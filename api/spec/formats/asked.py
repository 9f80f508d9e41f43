"""What stands before an answer, under the keys that files give it: `prompt`, a system text, a question, messages."""

from dataclasses import dataclass
from typing import Any

from api.spec.formats.alpaca import asked_as_chat, asked_as_text
from api.spec.formats.base import (
    ChatOrText,
    Conversation,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    kind,
    optional_string,
)
from api.spec.formats.calls import Messages
from api.spec.formats.messages import is_empty, parse_messages, with_system
from api.spec.formats.structured import messages_in

QUESTIONS = ("instruction", "question", "query", "input")
"""Keys of a question where there is no `prompt`. Beside `instruction`, `input` belongs to it (Alpaca)."""
CONVERSATIONS = ("messages", "conversations")
ASKED_KEYS = frozenset({"prompt", "system", "history", *QUESTIONS, *CONVERSATIONS})
"""All that may stand before an answer."""


@dataclass(frozen=True)
class Asked:
    """What is given before an answer."""

    messages: Messages
    text: str | None
    """The same for a base model without a chat template; None where only a template can show it."""
    read: frozenset[str]
    """The keys that it was read from."""
    templated: bool = True
    """False: a text that the model sees as it is, whether it has a template or not."""


def find_asked(row: Row, notices: list[RowWarning]) -> Asked | None:
    """What stands before the row's answers, under whichever key; None where there is nothing."""
    if (raw := row.get("prompt")) and not _blank(raw):
        history = isinstance(raw, str) and row.get("history")
        return _asked_by_question(row, "prompt", notices) if history else asked_by_prompt(row, raw, notices)
    for key in CONVERSATIONS:
        if row.get(key):
            messages, _ = parse_messages(row[key], notices, key)
            return Asked(with_system(row, messages, notices), None, frozenset({key, "system"}))
    for key in QUESTIONS:
        if row.get(key) and not _blank(row[key]):
            return _asked_by_question(row, key, notices)
    return None


def asked_by_prompt(row: Row, raw: Any, notices: list[RowWarning]) -> Asked:
    """`prompt`, a text or messages, with a system text if the row has one."""
    read = frozenset({"prompt", "system"})
    if messages := messages_in(raw):
        if isinstance(raw, str):
            notices.append(json_notice("prompt"))
        return Asked(with_system(row, parse_messages(messages, notices, "prompt")[0], notices), None, read)
    if not isinstance(raw, str):
        if isinstance(raw, list):
            parse_messages(raw, notices, "prompt")  # says what is wrong with them
        raise RowError(f"'prompt' must be a string or an array of messages, not {kind(raw)}", code="invalid_type")
    system = optional_string(row, "system")
    messages = with_system(row, [{"role": "user", "content": raw}], notices)
    if system:
        words = "'prompt' is read as a user's message after the one of the system"
        notices.append(RowWarning("prompt_key", words))
    return Asked(messages, f"{system}\n\n{raw}" if system else raw, read, templated=bool(system))


def _asked_by_question(row: Row, key: str, notices: list[RowWarning]) -> Asked:
    question = row[key]
    if messages := messages_in(question if not isinstance(question, dict) else question.get("messages", question)):
        parsed, _ = parse_messages(messages, notices, key)
        notices.append(RowWarning("prompt_key", f"key '{key}' is read as the messages before the answer"))
        return Asked(with_system(row, parsed, notices), None, frozenset({key, "system"}))
    if not isinstance(question, str):
        raise RowError(f"'{key}' must be a string or an array of messages, not {kind(question)}", code="invalid_type")
    read = frozenset({key, "system", "history"} | ({"input"} if key == "instruction" else set()))
    alone = {name: value for name, value in row.items() if name in read and name != key}
    notices.append(RowWarning("prompt_key", f"key '{key}' is read as the user's message before the answer"))
    return Asked(asked_as_chat(alone, question), asked_as_text(alone, question), read)


def require_one_question(row: Row, asked: Asked) -> None:
    """Raise RowError where another key of a question holds a text that is not read: it may be the prompt."""
    words = "\n".join(str(message.get("content", "")) for message in asked.messages)
    for key in QUESTIONS:
        other = row.get(key)
        if key not in asked.read and isinstance(other, str) and other.strip() not in words:
            read = ", ".join(sorted(asked.read & row.keys()))
            words = f"keys {read} and {key} may all be the prompt: join them in 'prompt', or leave out what is none"
            raise RowError(words, code="unread_prompt")


def as_text(asked: Asked, answer: str) -> Text:
    """A text that answers."""
    if asked.text is not None and not asked.templated:
        return PromptCompletion(asked.text, answer)
    messages = [*asked.messages, {"role": "assistant", "content": answer}]
    conversation = Conversation(messages, [0.0] * len(asked.messages) + [1.0])
    return conversation if asked.text is None else ChatOrText(conversation, PromptCompletion(asked.text, answer))


def says_nothing(text: Text) -> bool:
    """Whether the answer, the last thing in the text, is empty."""
    if isinstance(text, Conversation):
        return is_empty(text.messages[-1])
    return not (text.passage if isinstance(text, ChatOrText) else text).learnt.strip()


def json_notice(key: str) -> RowWarning:
    return RowWarning("json_text", f"'{key}' is a text that holds messages as JSON, and is read as those")


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()
