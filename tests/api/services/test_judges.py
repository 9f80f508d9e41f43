"""Judges: a stand-in for the operator's server, and models of this one behind a scripted sampler."""

import asyncio
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from structlog.testing import capture_logs

from api.context import Caller, Context
from api.infra.outside_judges import Cause, Unanswered
from api.records.usage import Usage
from api.services import budgets, judges
from api.settings import JudgeServer, Settings
from api.spec.evals.criteria import MAX_CRITERIA
from api.spec.graders import Case, GradingError, Question, Verdict
from api.spec.graders.base import Sampling
from api.spec.graders.label_model import LabelModel
from api.spec.graders.score_model import ScoreModel
from tests.api.sampler import ends, sampler, says
from tests.conftest import EMBEDDED
from tests.factories import a_base_model, a_caller
from tests.outside_judge import Said, Script, in_turn, outside_judge

SETTINGS = EMBEDDED

KEY = "sk-operators-own"
PATIENCE = {"judge_tries": 3, "judge_retry_s": 0.01, "judge_timeout_s": 0.3}
QUESTION = Question("strict", [{"role": "user", "content": "Rate it."}])
INPUT = [{"role": "user", "content": "{{ sample.output_text }}"}]
WRONG = Said(text="I would say 0.7")


def opened(settings: Settings, **given: Any) -> Context:
    return Context.open(settings.model_copy(update=PATIENCE | {"judge_api_key": SecretStr(KEY)} | given))


def asked(settings: Settings, script: Script, *questions: Question, **given: Any) -> tuple[list[Verdict], Any]:
    """The verdicts on the questions, which are asked at once, and the server."""
    with outside_judge(script) as server:
        context = opened(settings, **server.settings, **given)
        caller = a_caller(context.database)

        async def ask() -> list[Verdict]:
            return await asyncio.gather(*(judges.ask(context, caller, question) for question in questions))

        try:
            return asyncio.run(ask()), server
        finally:
            context.database.dispose()


def test_a_judge_is_asked_by_its_own_name_for_a_judgement_in_shape(settings: Settings) -> None:
    question = replace(QUESTION, range=(0, 2), sampling=Sampling(seed=3, temperature=0.5, reasoning_effort="low"))
    (verdict,), server = asked(settings, in_turn(Said(1.5)), question)
    assert (verdict.value, verdict.model, verdict.prompt_tokens, verdict.completion_tokens) == (
        1.5,
        "strict-2026",
        20,
        5,
    )
    (body,) = server.asked
    assert (body["model"], body["seed"], body["temperature"], body["reasoning_effort"]) == (
        "strict-model",
        3,
        0.5,
        "low",
    )
    assert body["response_format"]["json_schema"]["schema"]["properties"]["result"]["maximum"] == 2
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "trouble",
    [
        Said(status=429, headers={"retry-after": "0.05"}),
        Said(status=500),
        Said(status=503, body=b"<html>"),
        WRONG,
        Said(7.0),
        Said(body=b"nonsense"),
        Said(body=b"{}"),
        Said(after_s=0.6),
    ],
)
def test_a_judge_in_trouble_is_asked_again(settings: Settings, trouble: Said) -> None:
    (verdict,), server = asked(settings, in_turn(trouble, Said(0.25)), QUESTION)
    assert (verdict.value, len(server.asked)) == (0.25, 2)


@pytest.mark.parametrize(
    ("trouble", "flag", "message", "requests"),
    [
        (Said(status=429), "model_grader_server_error", "strict answered with status 429", 3),
        (Said(status=502), "model_grader_server_error", "strict answered with status 502", 3),
        (WRONG, "model_grader_parse_error", "strict did not answer with a number in the range, as JSON", 3),
        (Said(body=b"[]"), "model_grader_server_error", "strict did not answer with a chat completion", 3),
        (Said(after_s=0.6), "model_grader_server_error", "strict did not answer within 0.3 s", 3),
        (
            Said(status=401, body=f"wrong key {KEY}".encode()),
            "model_grader_server_error",
            "strict answered with status 401: the operator has to check the judge's address, key and model",
            1,
        ),
        (
            Said(body=b'{"choices": [{"message": {"refusal": "No."}}]}'),
            "model_grader_refusal_error",
            "strict refused to judge the answer",
            1,
        ),
        (Said(status=307, headers={"location": "http://127.0.0.1:1/"}), "model_grader_server_error", "status 307", 1),
    ],
)
def test_a_judge_that_stays_in_trouble_gives_a_reason(
    settings: Settings, trouble: Said, flag: str, message: str, requests: int
) -> None:
    with capture_logs() as logs:
        (verdict,), server = asked(settings, in_turn(trouble), QUESTION)
    assert (verdict.value, verdict.flag, len(server.asked)) == (None, flag, requests)
    assert message in verdict.message
    assert KEY not in f"{verdict}{logs}"


def test_a_judge_that_cannot_be_reached_is_away(settings: Settings) -> None:
    with outside_judge(in_turn(Said())) as server:
        given = server.settings
    context = opened(settings, **given)
    verdict = asyncio.run(judges.ask(context, a_caller(context.database), QUESTION))
    assert verdict.message == "strict could not be reached (ConnectError)"
    grader = ScoreModel.model_validate({"type": "score_model", "name": "s", "model": "strict", "input": INPUT})
    with pytest.raises(Unanswered, match="could not be reached") as raised:
        asyncio.run(judges.judge(context, a_caller(context.database), grader, Case("x", {})))
    assert raised.value.away


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        (Said(status=429), Cause.JUDGE),
        (Said(status=502), Cause.JUDGE),
        (Said(status=503), Cause.JUDGE),
        (Said(status=500), Cause.EITHER),
        (Said(status=504), Cause.EITHER),
        (Said(status=529), Cause.EITHER),
        (Said(after_s=0.4), Cause.EITHER),
        (WRONG, Cause.QUESTION),
        (Said(status=401), Cause.QUESTION),
    ],
)
def test_a_judge_that_fails_at_one_question_is_away_unless_it_answers_another(
    settings: Settings, trouble: Said, cause: Cause
) -> None:
    with outside_judge(in_turn(trouble, Said(0.5), trouble)) as server:
        context = opened(settings, **server.settings, judge_tries=1)
        caller = a_caller(context.database)

        def failure_since(since: float) -> Unanswered:
            with pytest.raises(Unanswered) as raised:
                asyncio.run(judges.verdict_on(context, caller, QUESTION, since=since))
            return raised.value

        first = failure_since(math.inf)
        assert first.cause is (Cause.JUDGE if cause is Cause.EITHER else cause)
        assert asyncio.run(judges.ask(context, caller, replace(QUESTION, range=(0, 2)))).value == 0.5
        assert failure_since(first.since).cause is cause


def test_a_server_that_knows_no_formats_is_asked_without_one(settings: Settings) -> None:
    def script(number: int, body: dict[str, Any]) -> Said:
        return Said(status=400) if "response_format" in body else Said(0.5)

    other = replace(QUESTION, range=(0, 3))
    with outside_judge(script) as server:
        context = opened(settings, **server.settings)
        caller = a_caller(context.database)
        values = [asyncio.run(judges.ask(context, caller, question)).value for question in (QUESTION, other)]
    assert values == [0.5, 0.5]
    assert ["response_format" in body for body in server.asked] == [True, False, False]


def test_the_same_question_of_a_project_is_asked_once(settings: Settings) -> None:
    with outside_judge(in_turn(WRONG, Said(0.5), Said(0.75))) as server:
        context = opened(settings, **server.settings)
        own, other = a_caller(context.database), a_caller(context.database, "other")
        first, again, foreign = (asyncio.run(judges.ask(context, caller, QUESTION)) for caller in (own, own, other))
        assert (first.value, again.value, foreign.value) == (0.5, 0.5, 0.75)
        assert (first.prompt_tokens, again.prompt_tokens) == (20, 0)
        warmer = replace(QUESTION, sampling=Sampling(temperature=0.1))
        assert asyncio.run(judges.ask(context, own, warmer)).value == 0.75
        assert len(server.asked) == 4


def test_a_projects_judges_have_a_budget_of_tokens(settings: Settings) -> None:
    with outside_judge(in_turn(Said(0.5))) as server:
        context = opened(settings, max_project_judge_tokens=25, **server.settings)
        caller = a_caller(context.database)
        assert asyncio.run(judges.ask(context, caller, QUESTION)).value == 0.5
        refused = asyncio.run(judges.ask(context, caller, replace(QUESTION, range=(0, 2))))
        assert "this month's are used up" in refused.message
        assert asyncio.run(judges.ask(context, caller, QUESTION)).value == 0.5  # a kept judgement costs nothing
        assert len(server.asked) == 1
    with context.database.read() as session:
        entry = session.scalars(select(Usage)).one()
    assert (entry.model, entry.prompt_tokens, entry.completion_tokens, entry.judge_tokens) == ("strict", 20, 5, 25)


def test_a_project_may_have_a_budget_of_judges_tokens_of_its_own(settings: Settings) -> None:
    with outside_judge(in_turn(Said(0.5))) as server:
        context = opened(settings, max_project_judge_tokens=25, **server.settings)
        own, other = a_caller(context.database), a_caller(context.database, "other")

        def values(caller: Caller) -> list[float | str | None]:
            questions = (replace(QUESTION, range=(0, 1 + number)) for number in range(3))
            return [asyncio.run(judges.ask(context, caller, question)).value for question in questions]

        budgets.set_budget(context, "default", judge_tokens=50)
        assert (values(own), values(other)) == ([0.5, 0.5, None], [0.5, None, None])
        budgets.set_budget(context, "other", judge_tokens=0)
        assert values(other) == [0.5, None, None], "a kept judgement costs nothing"
        used = {project.name: monthly[-1] for project, monthly in budgets.listed(context)}
        assert (used["default"].used, used["default"].limit, used["other"].limit) == (50, 50, 0)
        budgets.set_budget(context, "other", judge_tokens=None)
        with context.database.read() as session:
            assert budgets.judge_budget(context, session, other.project_id).limit == 25


def test_each_judge_is_asked_at_its_own_server_with_its_own_key(settings: Settings) -> None:
    with outside_judge(in_turn(Said(0.5))) as first, outside_judge(in_turn(Said(0.25))) as second:
        other = {"url": second.settings["judge_url"], "models": "mild=mild-model", "api_key": "sk-other"}
        servers = {"other": JudgeServer.model_validate(other)}
        context = opened(settings, **first.settings, judge_servers=servers)
        caller = a_caller(context.database)
        asked = [replace(QUESTION, model=name) for name in ("strict", "mild")]
        verdicts = [asyncio.run(judges.ask(context, caller, question)) for question in asked]
    assert [verdict.value for verdict in verdicts] == [0.5, 0.25]
    assert (first.keys, second.keys) == ([f"Bearer {KEY}"], ["Bearer sk-other"])
    assert [body["model"] for body in second.asked] == ["mild-model"]


def test_a_server_that_reports_no_tokens_is_not_free(settings: Settings) -> None:
    message = {"content": '{"steps": [], "result": 1}'}
    body = json.dumps({"choices": [{"message": message}]}).encode()
    (verdict,), _ = asked(settings, in_turn(Said(body=body)), QUESTION)
    assert (verdict.value, verdict.model, verdict.prompt_tokens, verdict.completion_tokens) == (1.0, "strict", 2, 6)


def test_many_judgements_are_awaited_at_once_but_not_all(settings: Settings) -> None:
    questions = [replace(QUESTION, range=(0, 1 + number)) for number in range(6)]
    verdicts, server = asked(settings, in_turn(Said(0.5, after_s=0.05)), *questions, judge_requests=3)
    assert [verdict.value for verdict in verdicts] == [0.5] * 6
    assert server.most_at_once == 3


def test_a_judge_that_was_away_is_asked_once_until_it_answers(settings: Settings) -> None:
    down = Said(status=503)
    with outside_judge(in_turn(down, down, down, down, Said(0.5), down, Said(0.5))) as server:
        context = opened(settings, **server.settings)
        caller = a_caller(context.database)
        requests = []
        for number in range(4):
            asyncio.run(judges.ask(context, caller, replace(QUESTION, range=(0, 1 + number))))
            requests.append(len(server.asked))
    assert requests == [3, 4, 5, 7]


def local(context: Context, caller: Caller, **fields: Any) -> Verdict:
    return asyncio.run(judges.ask(context, caller, replace(QUESTION, model="tiny", **fields)))


def test_a_model_of_this_server_judges_in_the_background(settings: Settings) -> None:
    context = opened(settings)
    caller = a_caller(context.database)
    a_base_model(context.database)
    with sampler(context.settings, says('{"result": ', "0.5}")) as requests:
        grader = LabelModel.model_validate(
            {
                "type": "label_model",
                "name": "l",
                "model": "tiny",
                "labels": ["a", "b"],
                "passing_labels": ["a"],
                "input": INPUT,
            }
        )
        assert local(context, caller).value == local(context, caller).value == 0.5
        (request,) = requests
        assert request.background
        assert request.content["ask"]["messages"][0]["content"].startswith("Rate it.\n\nAnswer with a JSON object")
        with pytest.raises(GradingError, match="one of the labels"):
            asyncio.run(judges.judge(context, caller, grader, Case("x", {})))
    with context.database.read() as session:
        entry = session.scalars(select(Usage)).one()
    assert (entry.model, entry.prompt_tokens, entry.judge_tokens) == ("tiny", 20, 32)


def test_without_a_sampler_a_model_of_this_server_judges_nothing(settings: Settings) -> None:
    context = opened(settings)
    caller = a_caller(context.database)
    a_base_model(context.database)
    assert local(context, caller).message.startswith("tiny could not be asked: No sampler is running")
    with sampler(context.settings, ends(type="failed", reason="internal", message="m")) as requests:
        assert local(context, caller).message == "tiny could not be asked: the sampler failed"
        assert len(requests) == 3
        unknown = asyncio.run(judges.ask(context, caller, replace(QUESTION, model="none")))
        assert unknown.message.startswith("none cannot be asked: The model 'none' does not exist")


def test_the_criteria_of_all_items_of_a_worker_may_wait(settings: Settings) -> None:
    context, ended = opened(settings, eval_items=17), asyncio.Event()

    async def hold() -> None:
        async with context.judgements.turn("project"):
            await ended.wait()

    async def hold_all() -> None:
        held = [asyncio.create_task(hold()) for _ in range(17 * MAX_CRITERIA)]
        await asyncio.sleep(0)
        ended.set()
        await asyncio.gather(*held)

    asyncio.run(hold_all())
    context.database.dispose()
