"""The trainer's questions to chat models. The supervisor asks them, because the trainer is behind the wall
(docs/internals/wall.md).

It asks in a thread of its own, so that the trainer's other reports, pauses and lost leases are handled meanwhile,
however long a model takes. The job waits for a model that is "away": that cannot be reached, is too busy, or answers
nothing. A question at which a model fails, or takes too long, while it answers others, is soon given up.
"""

import asyncio
import math
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from types import TracebackType
from typing import Self

import structlog
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError

from api.context import Caller
from api.infra.outside_judges import Cause, Unanswered
from api.records import events, jobs
from api.records.jobs import StaleFence
from api.records.usage import UNKNOWN_KEY
from api.services import judges
from api.spec.graders import GradingError, Question, Verdict
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.child import Child

log = structlog.get_logger(__name__)

AWAY_WAIT_S = 30.0
"""Seconds between two rounds of attempts at a question that a model does not answer."""
MAX_DOUBTS = 3
"""Number of rounds in which the question itself may be the cause (Unanswered.doubtful). After the last one, it stays
without a judgement."""
CHECK_S = 0.5
"""While the job waits for a model, seconds between two checks for a pause or a shutdown."""


class JudgeDesk:
    """Asks chat models the trainer's questions, and sends the verdicts to the trainer."""

    def __init__(self, attempt: AttemptContext, trainer: Child) -> None:
        job = attempt.job
        self._attempt, self._context, self._trainer = attempt, attempt.node.context, trainer
        self._caller = Caller(job.project_id, job.key_id or UNKNOWN_KEY, "write")
        self._models = {use.model for use in attempt.recipe.method.named_models}
        self._away_since: dict[str, float] = {}
        """{model that is away: time at which it was first found away, by the monotonic clock}."""
        self._portal: BlockingPortal | None = None
        """The thread that sends the requests to chat models. It starts with the first question."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._portal is not None:
            self._portal.call(self._portal.stop, True)  # cancels the requests
        self._stack.close()

    def ask(self, question: Question) -> None:
        """Send the question to its model and return at once. The verdict is sent to the trainer when the model has
        answered."""
        if self._portal is None:
            self._portal = self._stack.enter_context(start_blocking_portal(name="judges"))
        self._portal.start_task_soon(self._answer, question)

    async def _answer(self, question: Question) -> None:
        try:
            verdict = await self._verdict(question)
        except Exception:
            log.exception("judge_raised", model=question.model)
            verdict = Verdict(message="the worker failed to ask the judge; its log has the details")
        if self._stops:
            return  # the verdict may be that nobody waits any longer; the trainer repeats its questions later
        # The trainer needs no text, and its pipe has room for short verdicts only.
        self._trainer.command(cmd="verdict", key=question.key, verdict=asdict(replace(verdict, text="")))

    async def _verdict(self, question: Question) -> Verdict:
        if question.model not in self._models:  # a trainer is not trusted with models that its job does not name
            return Verdict(message="the grader does not name this model")
        since, doubts = math.inf, 0
        while True:
            try:
                verdict = await judges.verdict_on(self._context, self._caller, question, since=since)
                break
            except GradingError as error:
                verdict = Verdict.of(error)
                if not isinstance(error, Unanswered) or error.cause is Cause.QUESTION:
                    break
                since, doubts = error.since, doubts + error.doubtful
                if error.doubtful:
                    waited = doubts < MAX_DOUBTS and await self._wait_until(time.monotonic() + AWAY_WAIT_S)
                else:
                    waited = await self._may_wait(question.model, error.message)
                if not waited:
                    return verdict
        if self._away_since.pop(question.model, None) is not None:
            await run_sync(self._add_event, f"The judge {question.model} answers again.", "info")
        return verdict

    async def _may_wait(self, model: str, reason: str) -> bool:
        """Wait for a model that is away. Return whether it may be asked again: not after `judge_wait_s`, and not if the
        job is to pause or to stop."""
        if model not in self._away_since:
            self._away_since[model] = time.monotonic()
            await run_sync(self._add_event, f"The job waits for a judge: {reason}.", "warn")
        deadline = self._away_since[model] + self._context.settings.judge_wait_s
        return await self._wait_until(min(deadline, time.monotonic() + AWAY_WAIT_S)) and time.monotonic() < deadline

    async def _wait_until(self, moment: float) -> bool:
        """Wait until this time of the monotonic clock. Return False, at once, if the job is to pause or to stop."""
        while not self._stops and (left_s := moment - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, CHECK_S))
        return not self._stops

    @property
    def _stops(self) -> bool:
        return self._attempt.beat.pause.is_set() or self._attempt.node.stopping.is_set()

    def _add_event(self, message: str, level: str) -> None:
        job_id, fence = self._attempt.job.id, self._attempt.claim.fence
        try:
            with self._context.database.write() as session:
                jobs.lock_for_attempt(session, job_id, fence)
                events.add_event(session, job_id, message, level=level)
        except (SQLAlchemyError, StaleFence) as error:
            log.warning("event_not_added", job_id=job_id, message=message, error=type(error).__name__)
