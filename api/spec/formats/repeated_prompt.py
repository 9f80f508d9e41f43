"""Finds the prompt of a pair in its answers if no key holds the prompt, and removes it from answers that repeat it."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from api.spec.formats.base import Messages, Row, RowError, RowWarning, present_keys, truncate
from api.spec.formats.json_text import find_messages
from api.spec.formats.prompt_parsing import ParsedPrompt

ASSISTANT_MARKERS = (
    "\nAssistant:",
    "\nASSISTANT:",
    "### Response:\n",
    "### Assistant:",
    "\nAnswer:",
    "[/INST]",
    "<|assistant|>\n",
    "<|im_start|>assistant\n",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "<start_of_turn>model\n",
)
"""Beginnings of the assistant's turn in conversations written as one text (Anthropic's HH and others)."""
STRIPPED_MARKERS = tuple(map(str.strip, ASSISTANT_MARKERS))
MIN_REPEATED_WORDS = 4
"""Minimum length, in words, of a prompt that is removed from the answers. Both answers may begin with a shorter text by
coincidence."""
METADATA = re.compile(
    r"(?:^|_)(?:id|ids|uuid|source|dataset|model|lang|language|category|split|type|url|hash|date|timestamp|license"
    r"|subset|domain|score|rating|version|created|annotator|author)s?$",
    re.IGNORECASE,
)
"""Finds the keys of metadata, which never hold the prompt."""


def split_repeated_prompt(
    prompt: ParsedPrompt | None, chosen: str, rejected: str, warnings: list[RowWarning]
) -> tuple[ParsedPrompt, str, str]:
    """Return the prompt and both answers. If both answers begin with the prompt, they are returned without it.

    If the row has no prompt of its own, the prompt is the text that both answers share up to the assistant's turn.
    """
    question = "" if prompt is None else _question(prompt)
    length = _shared_prompt(chosen, rejected)
    if prompt is None or (question and question.strip() in chosen[:length] and not chosen.startswith(question)):
        if length:
            warnings.append(
                RowWarning("repeated_prompt", "the prompt that both answers begin with is removed from them")
            )
        return _plain(chosen[:length]), chosen[length:], rejected[length:]
    if not question or not chosen.startswith(question) or not rejected.startswith(question):
        return prompt, chosen, rejected
    if len(question.split()) < MIN_REPEATED_WORDS and not question.rstrip().endswith(STRIPPED_MARKERS):
        warnings.append(
            RowWarning("repeated_prompt", "both answers begin with the prompt's text, which is kept in them")
        )
        return prompt, chosen, rejected
    warnings.append(RowWarning("repeated_prompt", "the prompt that both answers begin with is removed from them"))
    return prompt, chosen[len(question) :], rejected[len(question) :]


def drop_repeated_answer(context: Messages, answers: Sequence[object], warnings: list[RowWarning]) -> Messages:
    """Return `context`, the messages before the answers.

    If its last message is an assistant message equal to one of the answers, leave it out and add a warning.
    """
    if context and context[-1]["role"] == "assistant" and context[-1].get("content") in answers:
        warnings.append(
            RowWarning(
                "repeated_answer", "the last message before the answers equals one of the answers and is left out"
            )
        )
        return context[:-1]
    return context


def require_no_unread_prompt(row: Row, read: AbstractSet[str]) -> None:
    """Raise RowError if an unread key holds text or messages that may be the prompt."""
    for key in sorted(present_keys(row) - read):
        if not METADATA.search(key) and _may_be_prompt(row[key]):
            raise RowError(
                f"key '{truncate(key)}' may hold the prompt, but is not a known key: rename it to 'prompt' (a text or "
                "messages), or remove it",
                code="unread_prompt",
            )


def _may_be_prompt(value: object) -> bool:
    if isinstance(value, str):
        return len(value.split()) > 1 or any(map(str.isalpha, value))
    return find_messages(value) is not None or (
        isinstance(value, dict) and find_messages(value.get("messages")) is not None
    )


def _shared_prompt(chosen: str, rejected: str) -> int:
    """Return the length in characters of the prompt that both texts begin with, up to the last assistant marker; 0 if
    there is no marker."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    length = next((at for at, (left, right) in pairs if left != right), min(len(chosen), len(rejected)))
    shared = chosen[:length]
    begin, marker = max((shared.rfind(marker), marker) for marker in ASSISTANT_MARKERS)
    return begin + len(marker) if begin >= 0 and shared[:begin].strip() else 0


def _plain(text: str) -> ParsedPrompt:
    return ParsedPrompt([{"role": "user", "content": text}], text, frozenset(), templated=False)


def _question(prompt: ParsedPrompt) -> str:
    """Return the part of the prompt that an answer may repeat: the whole text, or the content of the last message."""
    if prompt.text is not None and not prompt.templated:
        return prompt.text
    return str(prompt.messages[-1].get("content", "")) if prompt.messages else ""
