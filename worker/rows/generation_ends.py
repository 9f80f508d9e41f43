"""The ends of a base model's answers: the tokens that stop a generation, and the tokens after a finished answer.

Rollouts, samples, the chat, published models and the token at which a reward is read share this definition.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from worker.rows.chat_template import TEMPLATE_SECONDS, ChatTemplate
from worker.rows.limits import TooSlow, time_limit
from worker.rows.render import PROBE, Renderer
from worker.rows.special_tokens import end_ids, special_tokens
from worker.rows.tokenize_rows import TokenizerWrapper

_QUESTION = {"role": "user", "content": "a"}
_THOUGHT = {"role": "assistant", "reasoning_content": f"c{PROBE}", "content": f"b{PROBE}"}
_CALL = {"name": f"d{PROBE}", "arguments": {"e": "f"}}
_CALLING = {
    "role": "assistant",
    "content": f"b{PROBE}",
    "tool_calls": [{"id": "123456789", "type": "function", "function": _CALL}],
}
_TOOLS = [{"type": "function", "function": {"name": "d", "description": "", "parameters": {"type": "object"}}}]


@dataclass(frozen=True)
class EndTokens:
    stops: frozenset[int]
    """Tokens that end an answer: the end tokens in the model's settings, and the end of turn that the chat template
    writes."""
    own_stops: frozenset[int]
    """The tokens among `stops` that come from the model's own settings. Other programs stop at these by default."""
    chat_tail: tuple[int, ...]
    """Tokens after the last answer of a rendered conversation, such as [<|im_end|>, newline]. Empty without a chat
    template."""
    text_tail: tuple[int, ...]
    """Tokens after a document without a template, such as [</s>]."""

    @classmethod
    def load(cls, folder: Path, tokens: TokenizerWrapper | None = None) -> "EndTokens":
        """Return the end tokens of the base model or published model in the folder.

        A template that fails or takes too long adds nothing: rows that need it are refused when they are prepared.
        """
        tokens = tokens or TokenizerWrapper.load(folder)
        named = special_tokens(folder).get("eos_token")
        settings = end_ids(folder) | {tokens.tokenizer.token_to_id(named) if named else None}
        own_stops = frozenset(number for number in settings if number is not None)
        template = ChatTemplate.load(folder)
        of_template: frozenset[int] = frozenset()
        tail: tuple[int, ...] = ()
        if template is not None:
            try:
                with time_limit(TEMPLATE_SECONDS):
                    renderer = Renderer(template, end_texts=tokens.end_texts, added_texts=tokens.added_texts())
                    of_template, tail = _turn_ends(renderer, tokens), _tail(renderer, tokens)
            except TooSlow:
                pass
        return cls(own_stops | of_template, own_stops, tail, tuple(tokens.suffix))

    def closed(self, answer: Sequence[int], *, ended: bool, chat: bool) -> list[int]:
        """Return the answer's tokens with all tokens that follow a finished answer in a supervised row.

        `ended`: whether the answer's last token stopped the generation.
        """
        tail = list(self.chat_tail if chat else self.text_tail)
        kept = list(answer[:-1] if ended else answer)
        # Some templates write white space before the end of turn, so the answer may already have a part of the tail.
        present = next(
            size for size in range(min(len(kept), len(tail)), -1, -1) if kept[len(kept) - size :] == tail[:size]
        )
        return kept + tail[present:]


@lru_cache(maxsize=1)
def tokenizer_and_ends(folder: Path) -> tuple[TokenizerWrapper, EndTokens]:
    """Return the tokenizer and the end tokens of the model in the resolved folder.

    Cached because a trainer needs them for its answers and for the card of each checkpoint, and a large tokenizer takes
    seconds to load.
    """
    tokens = TokenizerWrapper.load(folder)
    return tokens, EndTokens.load(folder, tokens)


def _turn_ends(renderer: Renderer, tokens: TokenizerWrapper) -> frozenset[int]:
    """Return the last token of each end of turn that the template writes. An end of turn counts only if it consists of
    added tokens (texts that always become one token), and its last token only if it does not also occur within a turn,
    such as after the reasoning."""
    added = tokens.added_texts()
    chunks = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
    ends = set()
    for text in renderer.turn_ends:
        run = chunks.findall(text)
        if run and "".join(run) == "".join(text.split()):
            ends.add(run[-1])
    within = "".join(_within_turns(renderer))
    ids = (tokens.tokenizer.token_to_id(text) for text in ends if text not in within)
    return frozenset(number for number in ids if number is not None)


def _within_turns(renderer: Renderer) -> Iterator[str]:
    """Yield the texts that the template writes between the parts of one turn: reasoning, content, calls."""
    rendered = [
        renderer.attempt([_QUESTION, _THOUGHT], None),
        renderer.attempt([_QUESTION, _CALLING], _TOOLS),
    ]
    for text in rendered:
        parts = (text or "").split(PROBE)
        yield from parts[1:-1]


def _tail(renderer: Renderer, tokens: TokenizerWrapper) -> tuple[int, ...]:
    text = renderer.attempt([_QUESTION, {"role": "assistant", "content": f"b{PROBE}"}], None) or ""
    before, probe, after = text.rpartition(PROBE)
    if not probe or not after:
        return ()
    encoding = tokens.tokenizer.encode(text, add_special_tokens=False)
    begin = len(before) + len(PROBE)
    return tuple(number for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= begin)
