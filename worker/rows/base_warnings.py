"""Warnings about a row that depend on the base model: control tokens in texts, missing reasoning, no end token."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from api.spec.formats import Conversation, RowWarning
from worker.rows.reasoning import CLOSING, OPENING, reasoning_of
from worker.rows.render import Renderer
from worker.rows.tokenize_rows import TokenizerWrapper


@dataclass
class BaseModelWarnings:
    tokens: TokenizerWrapper | None = None

    def for_conversation(self, conversation: Conversation, renderer: Renderer) -> Iterator[RowWarning]:
        for number, message in enumerate(conversation.messages, start=1):
            match = self._control.search(message.get("content") or "")
            if match:
                problem = f"message {number} contains {match.group()}, which the tokenizer reads as a control token"
                yield RowWarning("control_token", problem)
        prompt = renderer.generation_prompt
        if prompt.rfind(OPENING) <= prompt.rfind(CLOSING):
            return
        for number, (message, weight) in enumerate(zip(conversation.messages, conversation.weights, strict=True), 1):
            if weight and (renderer.reasoning == "drop" or not reasoning_of(message)):
                problem = f"the generation prompt opens {OPENING}, but message {number} is trained without reasoning"
                yield RowWarning("no_reasoning", problem)
                return

    def for_plain_text(self) -> Iterator[RowWarning]:
        if self.tokens is not None and not self.tokens.suffix:
            yield RowWarning(
                "no_end_token", "the base model has no end-of-text token, so the model does not learn to end a text"
            )

    @cached_property
    def _control(self) -> re.Pattern[str]:
        texts = sorted(self.tokens.control_texts() if self.tokens else (), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or "(?!)")
