"""The answers to a request, reported as they grow."""

from collections.abc import Callable
from itertools import zip_longest

import torch

from api.spec.sampling import SamplerJob
from worker.rows.reasoning_reader import Part, first_part
from worker.sampling.bases import LoadedBase
from worker.sampling.calls import CallReader
from worker.sampling.constraint import GrammarConstraint
from worker.sampling.echo import scored_prompt
from worker.sampling.generate import LanguageModel
from worker.sampling.prompts import max_answer_tokens, prompts_of
from worker.sampling.text import AnswerText, TextDelta
from worker.sampling.token_sampler import SampledToken, TokenSampler
from worker.shared.reports import (
    FinishedReport,
    ReasoningReport,
    SamplerReport,
    StartedReport,
    TextReport,
    TokenLogprob,
    ToolCallReport,
    TopLogprob,
)

MIN_LOGPROB = -9999.0
"""Reported for impossible tokens, as OpenAI does, since JSON has no infinity."""
TOKENS_PER_REPORT, CHARS_PER_REPORT = 64, 1 << 16

Report = Callable[[SamplerReport], None]


def answers_of(request: SamplerJob, base: LoadedBase, report: Report) -> list["Answer"]:
    """Report the number of prompt tokens. Return the answers, which have no tokens yet. Raises RequestRefused if this
    model cannot serve the request."""
    prompts = prompts_of(request, base)
    max_tokens = [max_answer_tokens(request, base.context_length, len(prompt)) for prompt in prompts]
    constraint = base.constraint_of(request)
    rows = [row for row in range(len(prompts)) for _ in range(request.n)]
    answers = [
        Answer(index, request, base, report, prompts[row], max_tokens[row], constraint)
        for index, row in enumerate(rows)
    ]
    report(StartedReport(id=request.id, prompt_tokens=sum(map(len, prompts))))
    return answers


class Answer:
    """One answer while it is generated, reported as it grows."""

    def __init__(
        self,
        index: int,
        request: SamplerJob,
        base: LoadedBase,
        report: Report,
        prompt: list[int],
        max_tokens: int,
        constraint: GrammarConstraint | None,
    ) -> None:
        """`constraint`: the grammar of the request's answers. It is copied, because each answer has its own position in
        the grammar."""
        self.request_id, self.index = request.id, index
        self.tokens = list(prompt)
        """The tokens of the prompt, and of the answer so far."""
        self.max_tokens = max_tokens
        self.sampler = TokenSampler(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=None if request.seed is None else request.seed + index,
            top_logprobs=request.top_logprobs,
            constraint=None if constraint is None else constraint.copy(),
        )
        self._report = report
        self._end_tokens, self._bytes = base.end_tokens, base.token_bytes
        self._vocabulary, self._top_logprobs = base.vocabulary, request.top_logprobs
        self._echoes, self._echoed = request.echo, False
        form = base.call_form if request.offered_tools else None
        self._calls = (
            None if form is None else CallReader(form, request.offered_tools, only_one=not request.parallel_tool_calls)
        )
        given = prompt if request.prompts is not None else []
        self._text = AnswerText(
            base.tokenizer.tokenizer,
            request.stop,
            given=given,
            with_special_tokens=form is not None,
            part=_first_part(request, base, prompt),
        )
        self._count, self._ended = 0, False

    def draw(self, logits_V: torch.Tensor) -> bool:
        """Draw the next token and report its text. Return whether another token follows."""
        return self.add(self.sampler(logits_V))

    @property
    def echoes(self) -> bool:
        """Whether the prompt is a part of the answer and has not been reported yet."""
        return self._echoes and not self._echoed

    def echo(self, model: LanguageModel) -> None:
        """Report the prompt. Call this before the answer has tokens. Raises RequestRefused if the prompt is too long to
        compute its log-probabilities."""
        self._echoed = True
        self._report_delta(self._text.echo(scored_prompt(model, self.tokens, self._vocabulary, self._top_logprobs)))

    def add(self, token: SampledToken) -> bool:
        """Append a drawn token to the answer and report its text. Return whether another token follows."""
        self._count += 1
        self.tokens.append(token.id)
        if token.id in self._end_tokens:
            self._ended = True
            if self._echoes:  # clients that score prompts rely on an entry for every token after the prompt
                self._text.end(token)
            return False
        self._report_delta(self._text.add(token))
        return not self._complete and self._count < self.max_tokens

    def finish(self) -> None:
        self._report_delta(self._text.finish())
        if self._calls is not None:
            self._report_text(self._calls.finish(), [])
        ended = self._ended or self._complete
        reason = ("tool_calls" if self._calls is not None and self._calls.found else "stop") if ended else "length"
        self._report(
            FinishedReport(
                id=self.request_id,
                index=self.index,
                reason=reason,
                tokens=self._count,
                reasoning_tokens=self._text.reasoning_tokens,
            )
        )

    @property
    def _complete(self) -> bool:
        called = self._calls is not None and self._calls.complete
        return called or self._text.stopped or self.sampler.complete

    def _report_delta(self, delta: TextDelta) -> None:
        if delta.reasoning:
            self._report(ReasoningReport(id=self.request_id, index=self.index, text=delta.reasoning))
        if self._calls is None:
            self._report_text(delta.text, delta.tokens)
            return
        first = self._calls.found
        text, calls = self._calls.add(delta.text)
        self._report_text(text, delta.tokens)
        for number, call in enumerate(calls, start=first):
            self._report(
                ToolCallReport(
                    id=self.request_id,
                    index=self.index,
                    number=number,
                    call_id=call.id,
                    name=call.name,
                    arguments=call.arguments,
                )
            )

    def _report_text(self, text: str, tokens: list[tuple[int, SampledToken]]) -> None:
        """Report the text, and its tokens if log-probabilities are requested. A long text, such as an echoed prompt, is
        split into several reports."""
        count = 0 if self._top_logprobs is None else len(tokens)
        texts = (text[start : start + CHARS_PER_REPORT] for start in range(0, len(text), CHARS_PER_REPORT))
        parts = (tokens[start : start + TOKENS_PER_REPORT] for start in range(0, count, TOKENS_PER_REPORT))
        for piece, part in zip_longest(texts, parts):
            found = None if self._top_logprobs is None else [self._token_report(*each) for each in part or ()]
            self._report(TextReport(id=self.request_id, index=self.index, text=piece or "", tokens=found))

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


def _first_part(request: SamplerJob, base: LoadedBase, prompt: list[int]) -> Part:
    """Return the part with which the answer to a prompt begins. A text is continued as it is. A grammar may leave no
    room for reasoning, even if the prompt opens it."""
    if request.messages is None or not request.begins_freely:
        return "content"
    return first_part(base.tokenizer.tokenizer, prompt)
