"""How answers end on one base model: the tokens that stop a generation, and what stands after a finished answer.

The one definition for rollouts, samples, the chat, what is published, and the token at which a reward is read.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.rows.chat_template import ChatTemplate
from worker.rows.limits import TooSlow, time_limit
from worker.rows.render import PROBE, Renderer
from worker.rows.special_tokens import end_ids, special_tokens
from worker.rows.tokenizer import TokenizerWrapper

TEMPLATE_SECONDS = 5

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
    """Tokens that end an answer: those of the model's own settings, and the end of turn that its template writes."""
    own_stops: frozenset[int]
    """Those of them that the model's own settings name: what other programs stop at unasked."""
    chat_tail: tuple[int, ...]
    """Tokens after the last answer of a rendered conversation, such as [<|im_end|>, newline]; empty without a
    template."""
    text_tail: tuple[int, ...]
    """Tokens after a document without a template, such as [</s>]."""

    @classmethod
    def load(cls, folder: Path, tokens: TokenizerWrapper | None = None) -> "EndTokens":
        """Of the base model, or the published model, in the folder. A template that fails or takes long adds
        nothing: rows that need it are refused where they are prepared."""
        tokens = tokens or TokenizerWrapper.load(folder)
        named = special_tokens(folder).get("eos_token")
        own = end_ids(folder) | {tokens.tokenizer.token_to_id(named) if named else None}
        own_stops = frozenset(number for number in own if number is not None)
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
        """The answer's tokens as they stand in a row to learn from: with all that follows a finished answer there.
        `ended`: its last token is the one that ended it."""
        tail = list(self.chat_tail if chat else self.text_tail)
        kept = list(answer[:-1] if ended else answer)
        # The template may write white space before its end of turn, which the answer then has, too.
        have = next(
            size for size in range(min(len(kept), len(tail)), -1, -1) if kept[len(kept) - size :] == tail[:size]
        )
        return kept + tail[have:]


def _turn_ends(renderer: Renderer, tokens: TokenizerWrapper) -> frozenset[int]:
    """The last token of each end of turn that the template writes, where that is a token of its own. One that also
    stands within a turn, such as after its reasoning, ends none."""
    added = tokens.added_texts()
    pieces = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or "(?!)")
    found = set()
    for text in renderer.turn_ends:
        run = pieces.findall(text)
        if run and "".join(run) == "".join(text.split()):
            found.add(run[-1])
    within = "".join(_within_turns(renderer))
    ids = (tokens.tokenizer.token_to_id(text) for text in found if text not in within)
    return frozenset(number for number in ids if number is not None)


def _within_turns(renderer: Renderer) -> Iterator[str]:
    """What the template writes between the parts of one turn: its reasoning, its content, its calls."""
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
