"""The prompt of a pair where no key holds it, or where the answers repeat it."""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from api.spec.formats.asked import Asked
from api.spec.formats.base import Row, RowError, RowWarning, given_keys, truncate
from api.spec.formats.calls import Messages
from api.spec.formats.structured import messages_in

MARKS = (
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
"""Where the assistant begins to speak in a conversation that is written as one text (Anthropic's HH and others)."""
CERTAIN_WORDS = 4
"""A text of so many words at the beginning of both answers is no coincidence."""
METADATA = re.compile(
    r"(?:^|_)(?:id|ids|uuid|source|dataset|model|lang|language|category|split|type|url|hash|date|timestamp|license"
    r"|subset|domain|score|rating|version|created|annotator|author)s?$",
    re.IGNORECASE,
)
"""Keys of what describes a row and is no part of it."""


def split_repeated(
    asked: Asked | None, chosen: str, rejected: str, notices: list[RowWarning]
) -> tuple[Asked, str, str]:
    """Take the prompt that both answers repeat off them: the row's own, or what they share up to where the assistant
    speaks."""
    prompt = "" if asked is None else _question(asked)
    length = _shared_prompt(chosen, rejected)
    if asked is None or (prompt and prompt.strip() in chosen[:length] and not chosen.startswith(prompt)):
        if length:
            notices.append(
                RowWarning("repeated_prompt", "the prompt, with which both answers begin, is split off them")
            )
        return _plain(chosen[:length]), chosen[length:], rejected[length:]
    if not prompt or not chosen.startswith(prompt) or not rejected.startswith(prompt):
        return asked, chosen, rejected
    if len(prompt.split()) < CERTAIN_WORDS and not prompt.rstrip().endswith(tuple(map(str.strip, MARKS))):
        notices.append(RowWarning("repeated_prompt", "the prompt's text begins both answers, too, and is left in them"))
        return asked, chosen, rejected
    notices.append(RowWarning("repeated_prompt", "the prompt, with which both answers begin, is taken off them"))
    return asked, chosen[len(prompt) :], rejected[len(prompt) :]


def without_repeated(before: Messages, answers: Sequence[object], notices: list[RowWarning]) -> Messages:
    """The messages before the answers, without one of the answers at their end."""
    if before and before[-1]["role"] == "assistant" and before[-1].get("content") in answers:
        notices.append(
            RowWarning("repeated_answer", "the last message before the answers is one of them and is left out")
        )
        return before[:-1]
    return before


def require_no_prompt_elsewhere(row: Row, read: AbstractSet[str]) -> None:
    """Raise RowError where a key that is not read holds text or messages, which may be the prompt."""
    for key in sorted(given_keys(row) - read):
        if not METADATA.search(key) and _may_ask(row[key]):
            raise RowError(
                f"key '{truncate(key)}' may be the prompt, which no known key holds: rename it 'prompt' (a text or "
                "messages), or leave it out",
                code="unread_prompt",
            )


def _may_ask(value: Any) -> bool:
    if isinstance(value, str):
        return len(value.split()) > 1 or any(map(str.isalpha, value))
    return messages_in(value) is not None or (
        isinstance(value, dict) and messages_in(value.get("messages")) is not None
    )


def _shared_prompt(chosen: str, rejected: str) -> int:
    """Letters of the prompt that both begin with, up to where the assistant speaks last; 0 without one."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    length = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    shared = chosen[:length]
    begin, mark = max((shared.rfind(mark), mark) for mark in MARKS)
    return begin + len(mark) if begin >= 0 and shared[:begin].strip() else 0


def _plain(text: str) -> Asked:
    return Asked([{"role": "user", "content": text}], text, frozenset(), templated=False)


def _question(asked: Asked) -> str:
    """The text that an answer may repeat."""
    if asked.text is not None and not asked.templated:
        return asked.text
    return str(asked.messages[-1].get("content", "")) if asked.messages else ""
