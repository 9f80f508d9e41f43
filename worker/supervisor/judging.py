"""The trainer's questions to chat models. The supervisor asks them, because the trainer is behind the wall
(docs/internals/wall.md).

It asks in a thread of its own, so that the trainer's other reports, pauses and lost leases are handled meanwhile,
however long a model takes.
"""

from contextlib import ExitStack
from dataclasses import asdict, replace
from types import TracebackType
from typing import Self

import structlog
from anyio.from_thread import BlockingPortal, start_blocking_portal

from api.context import Caller
from api.records.usage import UNKNOWN_KEY
from api.services import judges
from api.spec.graders import Question, Verdict
from worker.supervisor.attempt import AttemptContext
from worker.supervisor.child import Child

log = structlog.get_logger(__name__)


class JudgeDesk:
    """Asks chat models the trainer's questions, and sends the verdicts to the trainer."""

    def __init__(self, attempt: AttemptContext, trainer: Child) -> None:
        job = attempt.job
        self._context, self._trainer = attempt.node.context, trainer
        self._caller = Caller(job.project_id, job.key_id or UNKNOWN_KEY, "write")
        self._models = {use.model for use in attempt.recipe.method.named_models}
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
            verdict = Verdict(message="an unexpected error occurred on the server")
        # The trainer needs no text, and its pipe has room for short verdicts only.
        self._trainer.command(cmd="verdict", key=question.key, verdict=asdict(replace(verdict, text="")))

    async def _verdict(self, question: Question) -> Verdict:
        if question.model not in self._models:  # a trainer is not trusted with models that its job does not name
            return Verdict(message="the grader does not name this model")
        return await judges.ask(self._context, self._caller, question)
