"""The sampler's requests: which answers are generated together, and which wait.

Models with the same batch key (worker.sampling.bases) share a batch, which answers join and leave at any token. The
first waiting request decides what is generated next. Requests of the batch API, here called background, come after all
others.
"""

import gc
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from api.spec.lifecycle import FailureReason
from api.spec.sampling import SamplerJob
from worker.engine.errors import (
    TrainingError,
    as_training_error,
    is_gpu_error,
    is_out_of_memory,
    print_traceback,
)
from worker.sampling.answer import Report, answers_of
from worker.sampling.bases import BatchKey, LoadedBase, ModelSource
from worker.sampling.batch import Batch, Row
from worker.sampling.generate import generate
from worker.sampling.refused import RequestRefused
from worker.sampling.token_sampler import SampledToken
from worker.shared.reports import CancelledReport, CompleteReport, FailedReport, RefusedReport, SamplerReport

PROMPT_TOKENS = 512
"""Prompts join the batch, or are scored for an echo, between two tokens of the other rows, which wait meanwhile. Once
the prompts of one such break have this many tokens together, further prompts wait for the next."""
PATIENCE_S = 2.0
"""When a request that cannot join the batch has waited this long, later requests may no longer join, so that the batch
ends."""
RECOVERY_STEPS = 10_000
"""A shortage of memory halves the number of rows that are generated together. The number is doubled again only every
RECOVERY_STEPS steps (minutes), because a further shortage would cost another load of the base model."""


SENTENCES = {
    FailureReason.OUT_OF_MEMORY: "The sampler has too little free memory for this model; a training may hold the rest. "
    "Retry later"
}
"""What a client reads about errors that are no TrainingError; of others, only that the sampler failed."""


class RequestCancelled(Exception):
    """The client no longer waits for the answer."""


@dataclass(eq=False)
class OpenRequest:
    """A request whose last report is not sent yet."""

    job: SamplerJob
    number: int
    """Number of the request in the order of arrival."""
    arrived_at: float = field(default_factory=time.monotonic)
    waiting: deque[Row] | None = None
    """Rows that are not in the batch. None: the request has not begun."""
    unfinished: int = 0
    """Number of answers that have not ended."""

    @cached_property
    def source(self) -> ModelSource:
        adapter = None if self.job.adapter is None else Path(self.job.adapter)
        return ModelSource(Path(self.job.base), adapter, self.job.technique)

    @property
    def turn(self) -> tuple[bool, int]:
        return self.job.background, self.number


class SamplingServer:
    """Answers requests. It keeps one base model in memory at a time."""

    def __init__(
        self,
        load: Callable[[ModelSource], LoadedBase],
        report: Report,
        *,
        cancelled: Callable[[str], bool],
        places: int,
        cache_tokens: int,
    ) -> None:
        """`places`: maximum number of rows that are generated together. `cache_tokens`: maximum number of tokens in the
        cache, where each row takes as much room as the longest. A single row may have more."""
        self._load, self._report, self._cancelled = load, report, cancelled
        self._places = self._all_places = places
        self._steps = 0
        self._cache_tokens = cache_tokens
        self._open: dict[str, OpenRequest] = {}
        self._arrived = 0
        self._base: LoadedBase | None = None
        self._key: BatchKey | None = None
        self._batch: Batch | None = None
        self.broken = False
        """Whether a GPU's error has ended the use of CUDA in this process. Every later request would fail, too."""

    @property
    def idle(self) -> bool:
        return not self._open

    def submit(self, job: SamplerJob) -> None:
        self._arrived += 1
        self._open[job.id] = OpenRequest(job, self._arrived)

    def step(self) -> None:
        """Draw the next token of each answer in the batch. An answer that cannot be batched is generated to its end."""
        for request in [each for each in self._open.values() if self._cancelled(each.job.id)]:
            self._fail(request, RequestCancelled())
        try:
            self._make_room()
            self._admit()
            if self._batch is not None and self._batch.rows:
                self._batch.step()
        except Exception as error:  # of any kind: the log gets the whole exception, the clients a sentence
            self._recover(error)
        self._steps += 1
        if self.idle:
            self._places = self._all_places
        elif self._steps % RECOVERY_STEPS == 0:
            self._places = min(2 * self._places, self._all_places)

    # The choice of the rows that are generated.

    def _admit(self) -> None:
        first = min(self._wanting(), key=lambda request: request.turn, default=None)
        if first is None:
            return
        if not first.job.background and not self._joins(first):
            self._requeue([row for row in self._rows if self._is_background(row)])
        if not self._rows:
            if not self._change_to(first):
                return
            if self._key is None:
                self._generate_alone(first)
                return
        self._join()

    def _join(self) -> None:
        """Let waiting rows of one model join the batch."""
        assert self._base is not None
        assert self._batch is not None
        joining: list[Row] = []
        echoed = 0
        while echoed + sum(map(len, {tuple(row.answer.tokens) for row in joining})) < PROMPT_TOKENS:
            request = self._next(joining)
            full = len(self._rows) + len(joining) >= self._places
            if request is None or (full and not self._give_way(request)):
                break
            if not self._begin(request):
                continue
            assert request.waiting, "it has begun, and wants to join"
            row = request.waiting[0]
            if self._fits(row, joining):
                echoed += len(row.answer.tokens) if row.answer.echoes else 0
                joining += self._next_row(request)
            elif not self._give_way(request):
                break
        if joining:
            self._batch.join(joining)

    def _next(self, joining: Sequence[Row]) -> OpenRequest | None:
        """Return the request whose row joins next: of those that may join, the one with the fewest rows. `joining`:
        rows that are already chosen."""
        in_turn = sorted(self._wanting(), key=lambda request: request.turn)
        blocked = next((each for each in in_turn if not self._joins(each)), None)
        sources = {row.source for row in joining}
        able = [
            each
            for each in in_turn
            if self._joins(each) and not (sources and each.source not in sources) and _may_pass(each, blocked)
        ]
        rows = Counter(row.answer.request_id for row in [*self._rows, *joining])
        return min(able, key=lambda each: (each.job.background, rows[each.job.id], each.number), default=None)

    def _fits(self, row: Row, joining: Sequence[Row]) -> bool:
        rows = [*self._rows, *joining, row]
        longest = 1 + max(len(each.answer.tokens) for each in rows)
        return len(rows) == 1 or len(rows) * longest <= self._cache_tokens

    def _make_room(self) -> None:
        """Drop the rows of closed requests. While the cache is too small for the rows that are left, put the last row
        back to wait."""
        if self._batch is None:
            return
        self._batch.keep(lambda row: row.answer.request_id in self._open)
        while len(self._rows) > 1 and len(self._rows) * self._batch.longest > self._cache_tokens:
            self._requeue([self._last(self._rows)])

    def _give_way(self, request: OpenRequest) -> bool:
        """Make a place for the request: put a background row back to wait. Return False if there is none, or if the
        request itself is a background request."""
        background = [row for row in self._rows if self._is_background(row)]
        if request.job.background or not background:
            return False
        self._requeue([self._last(background)])
        return True

    def _requeue(self, rows: Sequence[Row]) -> None:
        """Take rows out of the batch and let them wait. When they join again, the tokens that they have drawn are read
        as a part of their prompt."""
        if self._batch is not None and rows:
            self._batch.keep(lambda row: row not in rows)
        for row in reversed(rows):
            request = self._open.get(row.answer.request_id)
            if request is not None and request.waiting is not None:
                request.waiting.appendleft(row)

    def _last(self, rows: Sequence[Row]) -> Row:
        return max(rows, key=lambda row: (self._open[row.answer.request_id].turn, row.answer.index))

    def _wanting(self) -> list[OpenRequest]:
        return [request for request in self._open.values() if request.waiting is None or request.waiting]

    def _joins(self, request: OpenRequest) -> bool:
        """Return whether the request's rows may share the current batch."""
        base, source = self._base, request.source
        return (
            base is not None
            and self._key is not None
            and source.base_key == base.key
            and base.batch_key(source) == self._key
        )

    def _is_background(self, row: Row) -> bool:
        request = self._open.get(row.answer.request_id)
        return request is not None and request.job.background  # a request may end while others join

    @property
    def _rows(self) -> list[Row]:
        return [] if self._batch is None else self._batch.rows

    # The start and the end of a request.

    def _change_to(self, request: OpenRequest) -> bool:
        """Load the request's base unless it is in memory, and begin an empty batch. Return False if the request has
        failed."""
        source = request.source
        try:
            if self._base is None or self._base.key != source.base_key:
                self._unload()  # freed before the next is loaded: two might not fit
                self._base = self._load(source)
        except Exception as error:  # of any kind, as in `step`
            self._fail(request, error)
        if self._base is None:
            self._unload()  # otherwise this process would keep a GPU's memory that a trainer may need
            return False
        self._key = self._base.batch_key(source)
        self._batch = None if self._key is None else Batch(self._base, self._draw)
        return True

    def _begin(self, request: OpenRequest) -> bool:
        """Load the request's adapter unless it is in memory, and create its rows if it has not begun. Return False if
        the request has ended."""
        assert self._base is not None
        try:
            self._base.hold(request.source, beside=[row.source for row in self._rows])
        except Exception as error:  # of any kind, as in `step`
            self._fail(request, error)
            self._requeue(self._rows)
            self._unload()  # an adapter may be half loaded
            return False
        try:
            if request.waiting is None:
                answers = answers_of(request.job, self._base, self._report)
                request.waiting = deque(Row(answer, request.source) for answer in answers)
                request.unfinished = len(answers)
                if not answers:
                    self._close(request, CompleteReport(id=request.job.id))
        except Exception as error:  # of any kind, as in `step`
            self._fail(request, error)
        return request.job.id in self._open

    def _next_row(self, request: OpenRequest) -> list[Row]:
        """Return a list with the request's next row, after its echo was reported; an empty list if nothing is to be
        generated for it."""
        assert self._base is not None
        assert request.waiting, "it has begun, and wants its next answer"
        row = request.waiting.popleft()
        try:
            if row.answer.echoes:
                row.answer.echo(self._base.model(row.source))
            if row.answer.max_tokens:
                return [row]
            self._finish(request, row)
        except Exception as error:  # of any kind, as in `step`
            self._fail(request, error)
        return []

    def _generate_alone(self, request: OpenRequest) -> None:
        """Generate one of the request's answers alone, without a batch."""
        assert self._base is not None
        if not self._begin(request):
            return
        row = next(iter(self._next_row(request)), None)
        if row is None:
            return

        def on_token(token: SampledToken) -> bool:
            if self._cancelled(request.job.id):
                raise RequestCancelled
            return row.answer.add(token)

        try:
            model, answer = self._base.model(row.source), row.answer
            generate(model, answer.tokens, answer.sampler, max_tokens=answer.max_tokens, on_token=on_token)
            self._finish(request, row)
        except (RequestCancelled, RequestRefused) as reason:
            self._fail(request, reason)
        except Exception as error:  # of any kind, as in `step`
            self._fail(request, error)
            self._unload()  # memory may be short

    def _draw(self, row: Row, logits_V: torch.Tensor) -> bool:
        """Draw the row's next token. Return whether another follows."""
        request = self._open.get(row.answer.request_id)
        if request is None:
            return False
        try:
            if row.answer.draw(logits_V):
                return True
            self._finish(request, row)
        except Exception as error:  # any: an error in one answer must not end the others
            self._fail(request, error)
        return False

    def _finish(self, request: OpenRequest, row: Row) -> None:
        row.answer.finish()
        request.unfinished -= 1
        if not request.unfinished:
            self._close(request, CompleteReport(id=request.job.id))

    def _fail(self, request: OpenRequest, error: Exception) -> None:
        id_ = request.job.id
        if isinstance(error, RequestCancelled):
            self._close(request, CancelledReport(id=id_))
        elif isinstance(error, RequestRefused):
            self._close(request, RefusedReport(id=id_, message=error.message, param=error.param, code=error.code))
        else:
            print_traceback(error)
            self.broken |= is_gpu_error(error)
            failure = as_training_error(error)
            message = failure.message if isinstance(error, TrainingError) else SENTENCES.get(failure.reason)
            self._close(request, FailedReport(id=id_, reason=failure.reason.value, message=message))

    def _close(self, request: OpenRequest, report: SamplerReport) -> None:
        """Close the request with its last report."""
        del self._open[request.job.id]
        self._report(report)

    def _recover(self, error: Exception) -> None:
        """Prepare the next step after a pass has failed. If memory was short, half as many rows try again; otherwise
        the requests of the rows fail."""
        rows = self._rows
        if is_out_of_memory(error) and len(rows) > 1:
            print_traceback(error)
            self._places, self._steps = len(rows) // 2, 0
            self._requeue(rows)
        else:
            took_part = {row.answer.request_id for row in rows}
            failed = [each for each in self._open.values() if each.job.id in took_part]
            for request in failed or self._wanting()[:1]:  # at least one must fail, or the next step would fail again
                self._fail(request, error)
        self._unload()

    def _unload(self) -> None:
        self._base = self._key = self._batch = None
        gc.collect()
        if not self.broken:
            torch.cuda.empty_cache()


def _may_pass(request: OpenRequest, blocked: OpenRequest | None) -> bool:
    """Return whether the request may join the batch. `blocked`: the first request that waits for the batch to end,
    because it cannot join; None if there is none."""
    if blocked is None or request.turn < blocked.turn:
        return True
    patient = time.monotonic() - blocked.arrived_at < PATIENCE_S
    return patient and request.job.background == blocked.job.background
