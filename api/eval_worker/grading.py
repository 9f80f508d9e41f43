"""Grades of an answer by the criteria of its eval.

Comparisons of texts (string_check) are graded here. Scripts and measures of similarity are graded in a child process
with limits. Models are asked by api.services.judges.
"""

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from api.background import postponed
from api.background.postponed import MAX_FAULTS, Postponed
from api.context import Caller, Context
from api.infra.outside_judges import Unanswered
from api.infra.preview_process import PreviewFailed
from api.records.eval_items import EvalItemClaim, Use
from api.services import judges
from api.services.judges import JudgeAway
from api.spec.evals.criteria import Criterion, ScoreModelCriterion, passes
from api.spec.evals.status import ItemStatus
from api.spec.fields import JsonObject
from api.spec.graders.base import Case, GradingError
from api.spec.graders.grade import grade
from api.spec.graders.label_model import LabelModel
from api.spec.graders.model_grader import ModelGrader
from api.spec.graders.python import Python
from api.spec.graders.string_check import StringCheck
from api.spec.graders.text_similarity import TextSimilarity


class Ungraded(Postponed):
    """The answer has no grade yet."""

    def __init__(self, wait_s: float, *, fault: bool, kept: JsonObject) -> None:
        super().__init__(wait_s, fault=fault)
        self.kept = kept
        """Results of this attempt that the next one uses, such as the answer."""


class NoJudgement(Ungraded):
    """A judge gave no judgement of the item. The run waits for the judge unless the item may be the cause (`fault`)."""

    def __init__(self, failure: Unanswered) -> None:
        super().__init__(postponed.JUDGE_WAIT_S, fault=failure.doubtful, kept={})
        self.reason, self.since = failure.message, failure.since


class GradingDied(Ungraded):
    """The process that grades ended without a result. Another attempt may have one."""

    def __init__(self, kept: JsonObject) -> None:
        super().__init__(postponed.FAULT_WAIT_S, fault=True, kept=kept)


@dataclass(frozen=True)
class Outcome:
    """The grade of an answer by one criterion."""

    name: str
    type: str
    kind: Literal["passed", "failed", "errored"]
    score: float = 0.0
    error: JsonObject | None = None
    """{"code", "message"}, the reason why the criterion cannot grade the answer; None if it can."""
    sample: JsonObject | None = None
    """The question to a judge and the judge's answer; None for criteria without a judge."""
    uses: tuple[Use, ...] = ()
    """The judge's tokens; empty for criteria without a judge and for a stored judgement."""

    def result(self) -> JsonObject:
        """Return the outcome as an entry of the output item's `results`."""
        shown = {"name": self.name, "type": self.type, "passed": self.kind == "passed", "score": self.score}
        return {**shown, "sample": self.sample, "error": self.error}


async def grades_of(context: Context, claim: EvalItemClaim, criteria: Sequence[Criterion], case: Case) -> list[Outcome]:
    """Return an outcome for each criterion, in their order. Raise NoJudgement if a judge is to be asked again later."""
    slow = [criterion for criterion in criteria if isinstance(criterion, Python | TextSimilarity)]
    judged = [_judged(context, claim, criterion, case) for criterion in criteria if isinstance(criterion, ModelGrader)]
    by_child, by_judges = await asyncio.gather(_graded_by_child(context, claim, slow, case), asyncio.gather(*judged))
    if isinstance(by_child, GradingDied):
        raise by_child
    outcomes = {outcome.name: outcome for outcome in by_child}
    if missing := [outcome for outcome in by_judges if isinstance(outcome, NoJudgement)]:
        end = min(missing, key=lambda each: each.fault)  # the item is not blamed while another judge is away
        end.since = min(each.since for each in missing)
        raise end
    outcomes |= {outcome.name: outcome for outcome in by_judges if isinstance(outcome, Outcome)}
    for criterion in criteria:
        if isinstance(criterion, StringCheck):
            given = grade(criterion, case.text, case.item, tools=case.tools)
            outcomes[criterion.name] = _outcome(criterion, given.reward, given.errors.first, given.metadata.details)
    return [outcomes[criterion.name] for criterion in criteria]


def status_of(outcomes: Sequence[Outcome]) -> ItemStatus:
    kinds = {outcome.kind for outcome in outcomes}
    if "errored" in kinds:
        return ItemStatus.ERRORED
    return ItemStatus.FAILED if "failed" in kinds else ItemStatus.PASSED


def judges_answered(outcomes: Sequence[Outcome]) -> bool:
    away = any(outcome.error is not None and outcome.error["code"] == JudgeAway.code for outcome in outcomes)
    return not away and any(outcome.uses for outcome in outcomes)


async def _judged(
    context: Context, claim: EvalItemClaim, criterion: ScoreModelCriterion | LabelModel, case: Case
) -> Outcome | NoJudgement:
    """Return the outcome by a judge, or NoJudgement if the judge is to be asked again later.

    NoJudgement is returned, not raised: an exception would end `gather` while other judges are still being asked.
    """
    caller = Caller(claim.work.project_id, claim.work.key_id, "write")
    since = (claim.item.result or {}).get("since", math.inf)
    try:
        given = await judges.judge(context, caller, criterion, case, since=since)
    except Unanswered as failure:
        if _asks_again(context, claim, failure):
            return NoJudgement(failure)
        code = JudgeAway.code if failure.away else failure.flag
        return _outcome(criterion, 0.0, code, [failure.message])
    except GradingError as error:
        return _outcome(criterion, 0.0, error.flag, [error.message])
    answer = {"role": "assistant", "content": given.text}
    shown = {"input": [*given.messages], "output": [answer], "model": given.model, "label": given.label}
    used = given.prompt_tokens + given.completion_tokens  # 0 for a stored judgement
    uses = (Use(given.model, given.prompt_tokens, given.completion_tokens),) if used else ()
    return replace(_outcome(criterion, given.reward, None, ()), sample=shown, uses=uses)


def _asks_again(context: Context, claim: EvalItemClaim, failure: Unanswered) -> bool:
    if failure.doubtful:
        return claim.item.faults + 1 < MAX_FAULTS
    waits_since = claim.work.waits_since
    return failure.away and (waits_since is None or claim.at - waits_since < context.settings.judge_wait_s)


async def _graded_by_child(
    context: Context, claim: EvalItemClaim, criteria: Sequence[Criterion], case: Case
) -> list[Outcome] | GradingDied:
    """Return the outcomes, or GradingDied if the child process ended without them and another one may give them.

    GradingDied is returned, not raised, as by `_judged`.
    """
    if not criteria:
        return []
    request = {
        "task": "grade",
        "criteria": [criterion.model_dump(mode="json") for criterion in criteria],
        "text": case.text if case.answered else None,
        "item": case.item,
        "tools": case.tools,
        "embedding_model": context.settings.embedding_folder,
    }
    try:
        run = partial(context.previews.run, "worker.evaluate", "request.json", request)
        report = json.loads(await context.previews.run_in_thread(run))
        code = "grader_too_slow"
        fault = report["fault"]
    except PreviewFailed:  # killed, or too slow on a busy machine: the child reports limits of its own itself
        if claim.item.faults + 1 < MAX_FAULTS:
            return GradingDied(dict(claim.item.result or {}))
        code = "grader_failed"
        fault = "The process that grades was killed, or took too long, in every attempt"
    if fault is not None:
        return [_outcome(criterion, 0.0, code, [fault]) for criterion in criteria]
    return [
        _outcome(criterion, given["reward"], given["code"], given["details"])
        for criterion, given in zip(criteria, report["grades"], strict=True)
    ]


def _outcome(criterion: Criterion, reward: float, code: str | None, details: Sequence[str]) -> Outcome:
    if code is not None:
        return Outcome(criterion.name, criterion.type, "errored", error={"code": code, "message": "; ".join(details)})
    return Outcome(criterion.name, criterion.type, "passed" if passes(criterion, reward) else "failed", reward)
