"""One request to a loaded model → reports of its answers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from api.spec.sampling import SamplerJob
from worker.rows.chat_template import TemplateFailure
from worker.rows.limits import TooSlow, time_limit
from worker.rows.tokenizer import PromptCompletionText
from worker.sampling.bases import Base
from worker.sampling.draw import Draw, Drawn
from worker.sampling.generate import generate
from worker.sampling.text import AnswerText, Piece
from worker.shared.reports import (
    FinishedReport,
    SamplerReport,
    StartedReport,
    TextReport,
    TokenLogprob,
    TopLogprob,
)

TEMPLATE_SECONDS = 10
LEAST_LOGPROB = -9999.0
"""Told for what is impossible, as OpenAI does: JSON has no infinity."""

TOKENS_TOLD = 64
"""In one report."""

Report = Callable[[SamplerReport], None]


class Refused(Exception):
    """The request asks for what this model cannot do. `message` is for the user."""

    def __init__(self, message: str, *, param: str, code: str) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


def answer(request: SamplerJob, base: Base, model: Any, report: Report, *, cancelled: Callable[[], bool]) -> None:
    """Report the number of prompt tokens, then each answer's text and end. Raises Refused, Cancelled."""
    prompts = _prompts(request, base)
    room = [_room(request, base.window, len(prompt)) for prompt in prompts]
    report(StartedReport(id=request.id, prompt_tokens=sum(map(len, prompts))))
    for index, (row, _) in enumerate(itertools.product(range(len(prompts)), range(request.n))):
        seed = None if request.seed is None else request.seed + index
        draw = Draw(temperature=request.temperature, top_p=request.top_p, seed=seed, top_logprobs=request.top_logprobs)
        given = prompts[row] if request.prompts is not None else []
        one = _Answer(index, request, base, report, cancelled, given)
        generate(model, prompts[row], draw, max_tokens=room[row], take=one.take)
        one.finish()


class _Answer:
    """One choice while it is generated."""

    def __init__(
        self,
        index: int,
        request: SamplerJob,
        base: Base,
        report: Report,
        cancelled: Callable[[], bool],
        given: Sequence[int],
    ) -> None:
        self._id, self._index = request.id, index
        self._report, self._cancelled = report, cancelled
        self._ends, self._bytes = base.ends, base.token_bytes
        self._with_logprobs = request.top_logprobs is not None
        self._text = AnswerText(base.tokens.tokenizer, request.stop, given=given)
        self._count, self._ended = 0, False

    def take(self, token: Drawn) -> bool:
        if self._cancelled():
            raise Cancelled
        self._count += 1
        if token.id in self._ends:
            self._ended = True
            return False
        self._tell(self._text.add(token))
        return not self._text.stopped

    def finish(self) -> None:
        self._tell(self._text.finish())
        reason = "stop" if self._ended or self._text.stopped else "length"
        self._report(FinishedReport(id=self._id, index=self._index, reason=reason, tokens=self._count))

    def _tell(self, piece: Piece) -> None:
        if not self._with_logprobs:
            if piece.text:
                self._send(piece.text, None)
            return
        # Many tokens may come at once, where their text was held back long; a report must stay small.
        text = piece.text
        for start in range(0, len(piece.tokens), TOKENS_TOLD):
            tokens = [self._told(offset, token) for offset, token in piece.tokens[start : start + TOKENS_TOLD]]
            self._send(text, tokens)
            text = ""
        if text:
            self._send(text, [])

    def _send(self, text: str, tokens: list[TokenLogprob] | None) -> None:
        self._report(TextReport(id=self._id, index=self._index, text=text, tokens=tokens))

    def _told(self, offset: int, token: Drawn) -> TokenLogprob:
        drawn, top = self._named(token.id, token.logprob), [self._named(*each) for each in token.top]
        return TokenLogprob(token=drawn.token, bytes=drawn.bytes, logprob=drawn.logprob, top=top, offset=offset)

    def _named(self, number: int, logprob: float) -> TopLogprob:
        raw = self._bytes.of(number)
        return TopLogprob(token=raw.decode(errors="replace"), bytes=list(raw), logprob=max(logprob, LEAST_LOGPROB))


def _prompts(request: SamplerJob, base: Base) -> list[list[int]]:
    """The tokens of each prompt."""
    if request.messages is not None:
        return [_conversation(request.messages, base)]
    return [_continued(prompt, base) for prompt in request.prompts or []]


def _conversation(messages: list[dict[str, Any]], base: Base) -> list[int]:
    if base.template is None:
        raise Refused(
            "This model has no chat template: use /v1/completions, or a base model that has one.",
            param="model",
            code="no_chat_template",
        )
    try:
        with time_limit(TEMPLATE_SECONDS):
            text = base.template.render(messages, add_generation_prompt=True)
    except TemplateFailure as failure:
        raise Refused(
            f"The model's chat template refuses these messages: {failure}", param="messages", code="template_refuses"
        ) from failure
    except TooSlow:
        raise Refused(
            "The model's chat template takes too long with these messages.", param="messages", code="template_refuses"
        ) from None
    return base.tokens.tokenizer.encode(text, add_special_tokens=False).ids


def _continued(prompt: str | list[int], base: Base) -> list[int]:
    if isinstance(prompt, str):
        tokens = [
            int(each) for each in base.tokens.encode_plain([PromptCompletionText(prompt, append_end=False)])[0].tokens
        ]
    else:
        tokens = prompt
        if not all(0 <= each < base.vocabulary for each in tokens):
            raise Refused(
                f"prompt: this model's tokens are 0 to {base.vocabulary - 1}", param="prompt", code="invalid_value"
            )
    if not tokens:
        raise Refused("prompt: there is nothing to continue", param="prompt", code="invalid_value")
    return tokens


def _room(request: SamplerJob, window: int | None, prompt_tokens: int) -> int:
    """How many tokens an answer may have; at least 1."""
    if window is None:
        return request.max_tokens
    technique: Any = request.technique
    taken = prompt_tokens + (technique.virtual_tokens if technique is not None else 0)
    if taken >= window:
        raise Refused(
            f"This model's maximum context length is {window} tokens, and the prompt has {taken}.",
            param="messages" if request.messages is not None else "prompt",
            code="context_length_exceeded",
        )
    return min(request.max_tokens, window - taken)
