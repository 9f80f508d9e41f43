"""A trainer's questions to chat models. The supervisor asks the models and returns their verdicts."""

from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Protocol

import msgspec

from api.spec.graders import Question, Verdict, Verdicts
from worker.shared.pipe import Pipe
from worker.shared.reports import QuestionReport

WINDOW = 64
"""Maximum number of questions that wait for a verdict at a time. All their verdicts fit into the pipe's buffer, so that
the supervisor never has to wait before it can write one."""
LISTEN_S = 0.5


class AskJudges(Protocol):
    def __call__(self, questions: Sequence[Question], keep_alive: Callable[[], None]) -> Verdicts: ...


class Interrupted(Exception):
    """A pause or stop command, or the time limit of the comparison, has ended a step, an evaluation or a comparison
    before it changed anything."""


class Judgements:
    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def __call__(self, questions: Sequence[Question], keep_alive: Callable[[], None]) -> Verdicts:
        """Ask all questions and wait for the verdicts. Return them by the questions' keys.

        A pause or stop command ends the wait with Interrupted, because the supervisor then sends no more verdicts.
        `keep_alive` is called during the wait, and may raise Interrupted, too.
        """
        waiting = deque({question.key: question for question in questions}.values())
        if waiting and not self._pipe.commanded:
            raise RuntimeError("a trainer that runs without a supervisor cannot ask judges")
        asked: set[str] = set()
        verdicts: dict[str, Verdict] = {}
        while waiting or asked:
            while waiting and len(asked) < WINDOW:
                question = waiting.popleft()
                asked.add(question.key)
                self._pipe.report(QuestionReport(question=question))
            if self._pipe.stopping:
                raise Interrupted
            keep_alive()
            try:
                command = self._pipe.verdicts.get(timeout=LISTEN_S)
            except Empty:
                continue
            if (key := str(command["key"])) in asked:
                asked.remove(key)
                verdicts[key] = msgspec.convert(command["verdict"], Verdict)
        return verdicts


def no_judge(questions: Sequence[Question], keep_alive: Callable[[], None]) -> Verdicts:
    """Return no verdicts, for trainings without chat models."""
    assert not questions, questions
    return {}
