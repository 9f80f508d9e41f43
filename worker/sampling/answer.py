"""Generation of the answers to one request, reported as they grow."""

import itertools
from collections.abc import Callable, Sequence

from api.spec.formats import Messages
from api.spec.sampling import SamplerJob
from worker.rows.chat_template import TemplateFailure
from worker.rows.limits import TooSlow, time_limit
from worker.rows.tokenizer import PromptCompletionText
from worker.sampling.bases import LoadedBase
from worker.sampling.generate import LanguageModel, generate
from worker.sampling.text import AnswerText, TextDelta
from worker.sampling.token_sampler import SampledToken, TokenSampler
from worker.shared.reports import (
    FinishedReport,
    SamplerReport,
    StartedReport,
    TextReport,
    TokenLogprob,
    TopLogprob,
)

TEMPLATE_TIMEOUT_S = 10
MIN_LOGPROB = -9999.0
"""Reported for impossible tokens, as OpenAI does, since JSON has no infinity."""
TOKENS_PER_REPORT = 64

Report = Callable[[SamplerReport], None]


class RequestRefused(Exception):
    """The model cannot serve the request. `message` is for the user."""

    def __init__(self, message: str, *, param: str, code: str) -> None:
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


class RequestCancelled(Exception):
    """The client no longer waits for the answer."""


def answer(
    request: SamplerJob, base: LoadedBase, model: LanguageModel, report: Report, *, cancelled: Callable[[], bool]
) -> None:
    """Report the number of prompt tokens, then the text and the end of each answer.

    Raises RequestRefused and RequestCancelled."""
    prompts = _prompts(request, base)
    max_tokens = [_max_answer_tokens(request, base.context_length, len(prompt)) for prompt in prompts]
    report(StartedReport(id=request.id, prompt_tokens=sum(map(len, prompts))))
    for index, (row, _) in enumerate(itertools.product(range(len(prompts)), range(request.n))):
        seed = None if request.seed is None else request.seed + index
        sampler = TokenSampler(
            temperature=request.temperature, top_p=request.top_p, seed=seed, top_logprobs=request.top_logprobs
        )
        given = prompts[row] if request.prompts is not None else []
        choice = _Choice(index, request, base, report, cancelled, given)
        generate(model, prompts[row], sampler, max_tokens=max_tokens[row], on_token=choice.add)
        choice.finish()


class _Choice:
    """One answer while it is generated."""

    def __init__(
        self,
        index: int,
        request: SamplerJob,
        base: LoadedBase,
        report: Report,
        cancelled: Callable[[], bool],
        given: Sequence[int],
    ) -> None:
        self._id, self._index = request.id, index
        self._report, self._cancelled = report, cancelled
        self._end_tokens, self._bytes = base.end_tokens, base.token_bytes
        self._with_logprobs = request.top_logprobs is not None
        self._text = AnswerText(base.tokenizer.tokenizer, request.stop, given=given)
        self._count, self._ended = 0, False

    def add(self, token: SampledToken) -> bool:
        """Report the token's text. Return whether to generate another token."""
        if self._cancelled():
            raise RequestCancelled
        self._count += 1
        if token.id in self._end_tokens:
            self._ended = True
            return False
        self._report_delta(self._text.add(token))
        return not self._text.stopped

    def finish(self) -> None:
        self._report_delta(self._text.finish())
        reason = "stop" if self._ended or self._text.stopped else "length"
        self._report(FinishedReport(id=self._id, index=self._index, reason=reason, tokens=self._count))

    def _report_delta(self, delta: TextDelta) -> None:
        if not self._with_logprobs:
            if delta.text:
                self._send(delta.text, None)
            return
        # Text that was held back for long may release many tokens at once, and a report must stay small.
        text = delta.text
        for start in range(0, len(delta.tokens), TOKENS_PER_REPORT):
            tokens = [
                self._token_report(offset, token) for offset, token in delta.tokens[start : start + TOKENS_PER_REPORT]
            ]
            self._send(text, tokens)
            text = ""
        if text:
            self._send(text, [])

    def _send(self, text: str, tokens: list[TokenLogprob] | None) -> None:
        self._report(TextReport(id=self._id, index=self._index, text=text, tokens=tokens))

    def _token_report(self, offset: int, token: SampledToken) -> TokenLogprob:
        sampled = self._logprob(token.id, token.logprob)
        top = [self._logprob(token_id, logprob) for token_id, logprob in token.top]
        return TokenLogprob(token=sampled.token, bytes=sampled.bytes, logprob=sampled.logprob, top=top, offset=offset)

    def _logprob(self, token_id: int, logprob: float) -> TopLogprob:
        raw = self._bytes.of(token_id)
        return TopLogprob(token=raw.decode(errors="replace"), bytes=list(raw), logprob=max(logprob, MIN_LOGPROB))


def _prompts(request: SamplerJob, base: LoadedBase) -> list[list[int]]:
    """Return the tokens of each prompt."""
    if request.messages is not None:
        return [_chat_tokens(request.messages, base)]
    return [_completion_tokens(prompt, base) for prompt in request.prompts or []]


def _chat_tokens(messages: Messages, base: LoadedBase) -> list[int]:
    if base.template is None:
        raise RequestRefused(
            "This model has no chat template. Use /v1/completions, or a base model that has one.",
            param="model",
            code="no_chat_template",
        )
    try:
        with time_limit(TEMPLATE_TIMEOUT_S):
            text = base.template.render(messages, add_generation_prompt=True)
    except TemplateFailure as failure:
        raise RequestRefused(
            f"The model's chat template cannot render these messages: {failure}",
            param="messages",
            code="template_refuses",
        ) from failure
    except TooSlow:
        raise RequestRefused(
            f"The model's chat template took longer than {TEMPLATE_TIMEOUT_S} s with these messages.",
            param="messages",
            code="template_refuses",
        ) from None
    return base.tokenizer.tokenizer.encode(text, add_special_tokens=False).ids


def _completion_tokens(prompt: str | list[int], base: LoadedBase) -> list[int]:
    if isinstance(prompt, str):
        tokens = [
            int(token)
            for token in base.tokenizer.encode_plain([PromptCompletionText(prompt, append_end=False)])[0].tokens
        ]
    else:
        tokens = prompt
        if not all(0 <= token < base.vocabulary for token in tokens):
            raise RequestRefused(
                f"prompt: this model's token ids are 0 to {base.vocabulary - 1}.", param="prompt", code="invalid_value"
            )
    if not tokens:
        raise RequestRefused("prompt is empty: there is no text to continue.", param="prompt", code="invalid_value")
    return tokens


def _max_answer_tokens(request: SamplerJob, context_length: int | None, prompt_tokens: int) -> int:
    """Return how many tokens an answer may have, at least 1. Raises RequestRefused if the prompt is too long."""
    if context_length is None:
        return request.max_tokens
    taken = prompt_tokens + (request.technique.virtual_tokens if request.technique is not None else 0)
    if taken >= context_length:
        raise RequestRefused(
            f"This model's maximum context length is {context_length} tokens, and the prompt has {taken}.",
            param="messages" if request.messages is not None else "prompt",
            code="context_length_exceeded",
        )
    return min(request.max_tokens, context_length - taken)
