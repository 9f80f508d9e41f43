"""What is doubtful in a row once its base model is known: control tokens, reasoning that is opened, a missing end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from api.spec.formats import Conversation, RowWarning
from worker.rows.reasoning import CLOSING, OPENING, reasoning_of
from worker.rows.render import Renderer
from worker.rows.tokenizer import TokenizerWrapper


@dataclass
class RowWarnings:
    tokens: TokenizerWrapper | None = None

    def of_conversation(self, conversation: Conversation, renderer: Renderer) -> Iterator[RowWarning]:
        for number, message in enumerate(conversation.messages, start=1):
            found = self._control.search(message.get("content") or "")
            if found:
                problem = f"message {number} holds {found.group()}, which the tokenizer reads as a control token"
                yield RowWarning("control_token", problem)
        prompt = renderer.generation_prompt
        if prompt.rfind(OPENING) <= prompt.rfind(CLOSING):
            return
        for number, (message, weight) in enumerate(zip(conversation.messages, conversation.weights, strict=True), 1):
            if weight and (renderer.reasoning == "drop" or not reasoning_of(message)):
                problem = f"the generation prompt opens {OPENING}, and message {number} is learnt without reasoning"
                yield RowWarning("no_reasoning", problem)
                return

    def of_passage(self) -> Iterator[RowWarning]:
        if self.tokens is not None and not self.tokens.suffix:
            yield RowWarning("no_end_token", "the base model names no token that ends a text, so none is learnt")

    @cached_property
    def _control(self) -> re.Pattern[str]:
        texts = sorted(self.tokens.control_texts() if self.tokens else (), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or "(?!)")
