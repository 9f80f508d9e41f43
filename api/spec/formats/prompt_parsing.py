"""The prompt of an answer, under the keys that files use for it: `prompt`, a system text, a question, messages."""

from dataclasses import dataclass

from api.spec.formats.alpaca import prompt_as_messages, prompt_as_text
from api.spec.formats.base import (
    ChatOrText,
    Conversation,
    Messages,
    PromptCompletion,
    Row,
    RowError,
    RowWarning,
    Text,
    json_type,
    optional_string,
)
from api.spec.formats.json_text import find_messages
from api.spec.formats.messages import is_empty, parse_messages, with_system

QUESTIONS = ("instruction", "question", "query", "input")
"""Keys of a question, read if the row has no `prompt`. Beside `instruction`, `input` is a part of the question
(Alpaca).
"""
CONVERSATIONS = ("messages", "conversations")
"""Keys under which a row may have the messages of a conversation."""
PROMPT_KEYS = frozenset({"prompt", "system", "history", *QUESTIONS, *CONVERSATIONS})
"""All keys that a prompt is read from."""


@dataclass(frozen=True)
class ParsedPrompt:
    """The prompt of a row."""

    messages: Messages
    text: str | None
    """The prompt as text, for a base model without a chat template. None: only a chat template can render the
    prompt."""
    read: frozenset[str]
    """The keys from which the prompt was read."""
    templated: bool = True
    """Whether a base model with a chat template gets `messages`. False: it gets `text`, as a base model without one
    does."""


def find_prompt(row: Row, warnings: list[RowWarning]) -> ParsedPrompt | None:
    """Return the prompt of the row's answers, under whichever of PROMPT_KEYS it is, or None if there is none. Raises
    RowError if the prompt is invalid."""
    if (raw := row.get("prompt")) and not _blank(raw):
        history = isinstance(raw, str) and row.get("history")
        return _parse_question(row, "prompt", warnings) if history else parse_prompt(row, raw, warnings)
    for key in CONVERSATIONS:
        if row.get(key):
            messages, _ = parse_messages(row[key], warnings, key)
            return ParsedPrompt(with_system(row, messages, warnings), None, frozenset({key, "system"}))
    for key in QUESTIONS:
        if row.get(key) and not _blank(row[key]):
            return _parse_question(row, key, warnings)
    return None


def parse_prompt(row: Row, raw: object, warnings: list[RowWarning]) -> ParsedPrompt:
    """Return the prompt under the key `prompt`: a text or messages, with the row's system text if it has one. Raises
    RowError if the prompt is invalid."""
    read = frozenset({"prompt", "system"})
    if messages := find_messages(raw):
        if isinstance(raw, str):
            warnings.append(json_warning("prompt"))
        return ParsedPrompt(with_system(row, parse_messages(messages, warnings, "prompt")[0], warnings), None, read)
    if not isinstance(raw, str):
        if isinstance(raw, list):
            parse_messages(raw, warnings, "prompt")  # raises the error of the invalid message
        raise RowError(f"'prompt' must be a string or an array of messages, not {json_type(raw)}", code="invalid_type")
    system = optional_string(row, "system")
    messages = with_system(row, [{"role": "user", "content": raw}], warnings)
    if system:
        message = "'prompt' is read as the user's message, and 'system' as the system message before it"
        warnings.append(RowWarning("prompt_key", message))
    return ParsedPrompt(messages, f"{system}\n\n{raw}" if system else raw, read, templated=bool(system))


def _parse_question(row: Row, key: str, warnings: list[RowWarning]) -> ParsedPrompt:
    question = row[key]
    if messages := find_messages(question if not isinstance(question, dict) else question.get("messages", question)):
        parsed, _ = parse_messages(messages, warnings, key)
        warnings.append(RowWarning("prompt_key", f"key '{key}' is read as the messages before the answer"))
        return ParsedPrompt(with_system(row, parsed, warnings), None, frozenset({key, "system"}))
    if not isinstance(question, str):
        raise RowError(
            f"'{key}' must be a string or an array of messages, not {json_type(question)}", code="invalid_type"
        )
    read = frozenset({key, "system", "history"} | ({"input"} if key == "instruction" else set()))
    other_keys = {name: value for name, value in row.items() if name in read and name != key}
    warnings.append(RowWarning("prompt_key", f"key '{key}' is read as the user's message before the answer"))
    return ParsedPrompt(prompt_as_messages(other_keys, question), prompt_as_text(other_keys, question), read)


def require_one_prompt(row: Row, prompt: ParsedPrompt) -> None:
    """Raise RowError if one of QUESTIONS that was not read holds another text, because that text may be the real
    prompt."""
    prompt_text = "\n".join(str(message.get("content", "")) for message in prompt.messages)
    for key in QUESTIONS:
        other = row.get(key)
        if key not in prompt.read and isinstance(other, str) and other.strip() not in prompt_text:
            read = ", ".join(sorted(prompt.read & row.keys()))
            raise RowError(
                f"keys {read} and {key} may all be the prompt: join them in 'prompt', or remove the keys that are not "
                "the prompt",
                code="unread_prompt",
            )


def with_answer(prompt: ParsedPrompt, answer: str) -> Text:
    """Return the prompt followed by the answer, which is supervised."""
    if prompt.text is not None and not prompt.templated:
        return PromptCompletion(prompt.text, answer)
    messages = [*prompt.messages, {"role": "assistant", "content": answer}]
    conversation = Conversation(messages, [0.0] * len(prompt.messages) + [1.0])
    return conversation if prompt.text is None else ChatOrText(conversation, PromptCompletion(prompt.text, answer))


def has_empty_answer(text: Text) -> bool:
    """Return whether the answer, the last part of the text, is empty."""
    if isinstance(text, Conversation):
        return is_empty(text.messages[-1])
    return not (text.plain if isinstance(text, ChatOrText) else text).completion.strip()


def json_warning(key: str) -> RowWarning:
    return RowWarning("json_text", f"'{key}' is a text that holds JSON, and is read as messages")


def _blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()
