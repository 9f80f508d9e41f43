"""Generation of the answers to one request, reported as they grow."""

import itertools
from collections.abc import Callable, Sequence

from api.spec.sampling import SamplerJob
from worker.sampling.bases import LoadedBase
from worker.sampling.echo import scored_prompt
from worker.sampling.generate import LanguageModel, generate
from worker.sampling.prompts import max_answer_tokens, prompts_of
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

MIN_LOGPROB = -9999.0
"""Reported for impossible tokens, as OpenAI does, since JSON has no infinity."""
TOKENS_PER_REPORT = 64

Report = Callable[[SamplerReport], None]


class RequestCancelled(Exception):
    """The client no longer waits for the answer."""


def answer(
    request: SamplerJob, base: LoadedBase, model: LanguageModel, report: Report, *, cancelled: Callable[[], bool]
) -> None:
    """Report the number of prompt tokens, then the text and the end of each answer.

    Raises RequestRefused and RequestCancelled."""
    prompts = prompts_of(request, base)
    max_tokens = [max_answer_tokens(request, base.context_length, len(prompt)) for prompt in prompts]
    constraint = base.grammars.of_request(request)
    report(StartedReport(id=request.id, prompt_tokens=sum(map(len, prompts))))
    for index, (row, _) in enumerate(itertools.product(range(len(prompts)), range(request.n))):
        seed = None if request.seed is None else request.seed + index
        sampler = TokenSampler(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=seed,
            top_logprobs=request.top_logprobs,
            constraint=None if constraint is None else constraint.copy(),
        )
        given = prompts[row] if request.prompts is not None else []
        choice = _Choice(index, request, base, report, cancelled, given, sampler)
        if request.echo:
            choice.echo(scored_prompt(model, prompts[row], base.vocabulary, request.top_logprobs))
        if max_tokens[row]:
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
        sampler: TokenSampler,
    ) -> None:
        self._id, self._index = request.id, index
        self._report, self._cancelled = report, cancelled
        self._end_tokens, self._bytes = base.end_tokens, base.token_bytes
        self._echoes = request.echo
        self._with_logprobs = request.top_logprobs is not None
        self._text = AnswerText(base.tokenizer.tokenizer, request.stop, given=given)
        self._sampler, self._count, self._ended = sampler, 0, False

    def echo(self, prompt: Sequence[SampledToken]) -> None:
        """Report the prompt, before anything of the answer."""
        self._report_delta(self._text.echo(prompt))

    def add(self, token: SampledToken) -> bool:
        """Report the token's text. Return whether to generate another token."""
        if self._cancelled():
            raise RequestCancelled
        self._count += 1
        if token.id in self._end_tokens:
            self._ended = True
            if self._echoes:  # clients that score prompts count on every token after them
                self._text.end(token)
            return False
        self._report_delta(self._text.add(token))
        return not self._complete

    def finish(self) -> None:
        self._report_delta(self._text.finish())
        reason = "stop" if self._ended or self._complete else "length"
        self._report(FinishedReport(id=self._id, index=self._index, reason=reason, tokens=self._count))

    @property
    def _complete(self) -> bool:
        return self._text.stopped or self._sampler.complete

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
        raw = self._bytes.of(token.id)
        logprob = None if token.logprob is None else max(token.logprob, MIN_LOGPROB)
        top = None if token.top is None else [self._top_report(*each) for each in token.top]
        return TokenLogprob(
            token=raw.decode(errors="replace"), bytes=list(raw), logprob=logprob, top=top, offset=offset
        )

    def _top_report(self, token_id: int, logprob: float) -> TopLogprob:
        raw = self._bytes.of(token_id)
        return TopLogprob(token=raw.decode(errors="replace"), bytes=list(raw), logprob=max(logprob, MIN_LOGPROB))
