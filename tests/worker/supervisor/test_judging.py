"""A job whose answers a judge grades: the supervisor asks it, and the trainer waits."""

import asyncio
import json
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from api.context import Context
from api.records import events
from api.services import jobs as job_service
from api.spec.graders import Question
from api.spec.lifecycle import JobStatus
from tests.api.sampler import sampler
from tests.conftest import EMBEDDED
from tests.factories import a_base_model, a_caller, a_job, the_job
from tests.outside_judge import Said, fails_at, in_turn, outside_judge
from tests.worker.supervisor.conftest import OpenWorkshop
from worker.shared.judgements import Interrupted, Judgements
from worker.shared.pipe import Pipe
from worker.shared.reports import TRAINER_REPORTS, QuestionReport, decode, encode
from worker.supervisor import judging
from worker.supervisor.judging import JudgeDesk

SETTINGS = EMBEDDED

KEY = "sk-operators-own"
ROWS = b"".join(
    json.dumps({"messages": [{"role": "user", "content": f"word {number}"}]}).encode() + b"\n" for number in range(12)
)
GRADER = {
    "type": "score_model",
    "name": "s",
    "model": "strict",
    "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
}
METHOD = {
    "type": "reinforcement",
    "reinforcement": {"grader": GRADER, "max_tokens": 4, "group_size": 4, "hyperparameters": {"batch_size": 2}},
}


class Troubled:
    """Is silent until it is released, and then has every trouble, with one answer for ever."""

    def __init__(self) -> None:
        self.is_asked, self.released = threading.Event(), threading.Event()
        self.cursed: str | None = None

    def __call__(self, number: int, body: dict[str, Any]) -> Said:
        if not self.released.is_set():
            self.is_asked.set()
            self.released.wait(60)
            return Said()
        text = body["messages"][-1]["content"]
        self.cursed = self.cursed or text
        if text == self.cursed:
            return Said(text="No idea.")
        trouble = (Said(status=429), Said(status=500), Said(body=b"nonsense"), Said(after_s=0.7))
        return trouble[number % 8] if number % 8 < 4 else Said(number % 3 / 2)


def test_a_training_goes_on_with_a_judge_in_trouble_and_is_paused_while_it_waits(
    open_workshop: OpenWorkshop, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "AWAY_WAIT_S", 0.1)
    troubled = Troubled()
    with outside_judge(troubled) as server:
        given = {"judge_tries": 6, "judge_retry_s": 0.01, "judge_timeout_s": 60, "poll_s": 0.1}
        settings = context.settings.model_copy(
            update={**given, **server.settings, "judge_api_key": SecretStr(KEY), "heartbeat_s": 0.2, "lease_s": 2}
        )
        workshop = open_workshop(Context.open(settings))
        job_id = workshop.submit(ROWS, steps=2, method=METHOD)
        attempt = threading.Thread(target=workshop.train_once)
        attempt.start()
        assert troubled.is_asked.wait(60)
        job_service.pause(workshop.context, workshop.caller, job_id)
        attempt.join(30)
        assert workshop.job(job_id).status == JobStatus.PAUSED
        troubled.released.set()
        workshop.context.outside_judges._timeout_s = 0.3
        job_service.resume(workshop.context, workshop.caller, job_id)
        workshop.work()
    job, told = workshop.job(job_id), workshop.told(job_id)
    assert job.status == JobStatus.SUCCEEDED, job.error
    failed = (
        "The grader failed on an answer, so the answer gets reward 0: "
        "strict did not answer with a number in the range, as JSON"
    )
    assert failed in told
    assert KEY not in json.dumps([told, job.recipe, job.resolved, job.error])


class Desk:
    """A JudgeDesk, without a worker and a trainer around it."""

    def __init__(self, context: Context) -> None:
        self.context, self.verdicts = context, queue.SimpleQueue[dict[str, Any]]()
        self.pause = threading.Event()
        self.job_id = a_job(context.database, a_caller(context.database).project_id)
        job = the_job(context.database, self.job_id)
        self.attempt: Any = SimpleNamespace(
            node=SimpleNamespace(context=context, stopping=threading.Event()),
            job=job,
            claim=SimpleNamespace(fence=job.fence),
            beat=SimpleNamespace(pause=self.pause),
            recipe=SimpleNamespace(
                method=SimpleNamespace(named_models=[SimpleNamespace(model=name) for name in ("strict", "tiny")])
            ),
        )
        self.trainer: Any = SimpleNamespace(command=lambda **command: self.verdicts.put(command["verdict"]))

    def verdicts_on(self, *texts: str, model: str = "strict") -> list[dict[str, Any]]:
        """Ask all questions at once. Return the verdicts in the order in which they arrive."""
        with JudgeDesk(self.attempt, self.trainer) as asked:
            for text in texts:
                asked.ask(Question(model, [{"role": "user", "content": text}]))
            return [self.verdicts.get(timeout=30) for _ in texts]

    def told(self) -> list[str]:
        with self.context.database.read() as session:
            return [event.message for event in events.page(session, self.job_id, after=None, limit=9).data]


@pytest.mark.parametrize("status", [500, 503])
def test_a_job_waits_for_a_judge_that_answers_nothing(
    context: Context, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "AWAY_WAIT_S", 0.02)
    with outside_judge(in_turn(*[Said(status=status)] * 5, Said(0.5))) as server:
        settings = context.settings.model_copy(update={"judge_tries": 1, **server.settings})
        desk = Desk(Context.open(settings))
        with JudgeDesk(desk.attempt, desk.trainer) as asked:
            asked.ask(Question("strict", [{"role": "user", "content": "a"}]))
            assert desk.verdicts.get(timeout=30)["value"] == 0.5
    assert desk.told()[:2] == [
        "The judge strict answers again.",
        f"The job waits for a judge: strict answered with status {status}.",
    ]


@pytest.mark.parametrize("trouble", [Said(status=500, after_s=0.3), Said(after_s=0.8)])
def test_a_job_does_not_wait_for_one_question_if_the_judge_answers_the_others(
    context: Context, trouble: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "AWAY_WAIT_S", 0.02)
    with outside_judge(fails_at("bad", trouble)) as server:
        given = {"judge_tries": 2, "judge_retry_s": 0.01, "judge_timeout_s": 0.5, **server.settings}
        desk = Desk(Context.open(context.settings.model_copy(update=given)))
        *good, bad = desk.verdicts_on("a", "bad", "b", "c")
    assert [verdict["value"] for verdict in good] == [1.0] * 3
    assert (bad["value"], bad["message"][:10]) == (None, "strict ans" if trouble.status == 500 else "strict did")
    assert len([body for body in server.asked if body["messages"][0]["content"].startswith("bad")]) == 2 + 1 + 1
    assert not [message for message in desk.told() if "judge" in message]


def test_a_question_that_kills_its_sampler_is_asked_three_times(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "AWAY_WAIT_S", 0.02)
    desk = Desk(Context.open(context.settings))
    a_base_model(context.database)
    with sampler(context.settings, lambda request: [{"type": "lost"}]) as requests:
        (verdict,) = desk.verdicts_on("bad", model="tiny")
    assert (verdict["value"], len(requests)) == (None, 3)
    assert verdict["message"].startswith("tiny could not be asked: The sampler stopped before")


def test_the_wait_for_a_judge_ends(context: Context) -> None:
    with outside_judge(in_turn(Said(status=503))) as server:
        limits = {"judge_tries": 1, "judge_wait_s": 0.05}
        desk = Desk(Context.open(context.settings.model_copy(update=limits | server.settings)))
        with JudgeDesk(desk.attempt, desk.trainer) as asked:
            asked.ask(Question("strict", [{"role": "user", "content": "a"}]))
            verdict = desk.verdicts.get(timeout=30)
    assert (verdict["value"], verdict["message"]) == (None, "strict answered with status 503")


def test_a_pause_ends_the_wait_for_a_judge_without_a_verdict(context: Context) -> None:
    with outside_judge(in_turn(Said(status=503))) as server:
        desk = Desk(Context.open(context.settings.model_copy(update={"judge_tries": 1, **server.settings})))
        desk.pause.set()
        asyncio.run(
            JudgeDesk(desk.attempt, desk.trainer)._answer(Question("strict", [{"role": "user", "content": "a"}]))
        )
        assert len(server.asked) == 1
    assert desk.verdicts.empty()


def test_a_question_passes_the_pipe_as_it_was() -> None:
    question = Question("m", [{"role": "user", "content": "é"}], labels=("a", "b"), range=(0.0, 1.5))
    assert question.key
    report = decode(encode(QuestionReport(question=question)), TRAINER_REPORTS)
    assert isinstance(report, QuestionReport)
    assert report.question == question
    assert report.question.key == question.key


def test_a_trainer_that_is_to_stop_waits_for_no_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = Pipe()
    pipe.commanded = True
    reported: list[Any] = []
    monkeypatch.setattr(pipe, "report", reported.append)
    questions = [Question("m", [{"role": "user", "content": text}]) for text in ("a", "b", "a")]
    for question in questions[:2]:
        verdict = {"value": 0.5, "flag": "other_error", "message": "", "model": "m"}
        pipe.verdicts.put({"cmd": "verdict", "key": question.key, "verdict": verdict})
    verdicts = Judgements(pipe)(questions, pipe.alive)
    assert {key: verdict.value for key, verdict in verdicts.items()} == {each.key: 0.5 for each in questions}
    assert len([report for report in reported if isinstance(report, QuestionReport)]) == 2
    pipe._stop.set()
    with pytest.raises(Interrupted):
        Judgements(pipe)(questions, pipe.alive)
