"""The result of one item of a run: its answer, which is sampled or given in the row, and the grades."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from anyio.to_thread import run_sync
from pydantic import TypeAdapter

from api.background.completion import CHAT, complete, validated
from api.context import Caller, Context
from api.errors import ServiceError
from api.eval_worker.grading import NoJudgement, Ungraded, grades_of, judges_answered, status_of
from api.records.eval_items import EvalItemClaim, Graded, Use
from api.records.evals import Eval
from api.spec.evals.criteria import Criterion
from api.spec.evals.run_source import CompletionsSource, EvalRow, RunSource
from api.spec.evals.status import ItemStatus
from api.spec.fields import JsonObject
from api.spec.graders.base import Case, GradingError
from api.spec.ids import new_id

CRITERIA = TypeAdapter[list[Criterion]](list[Criterion])
SOURCE = TypeAdapter[RunSource](RunSource)
NO_ROWS = {"type": "file_id", "id": "none"}
"""Replaces the rows in a run's source before the source is validated for an item: validating up to 1 MiB of rows for
each item would block the event loop."""
NO_ERROR = {"code": "", "message": ""}


@dataclass(frozen=True)
class Answer:
    """The answer to an item, with the fields of an output item's `sample`."""

    text: str | None = ""
    """None: the row has no answer, and its eval needs none."""
    tools: Sequence[object] = ()
    """The tool calls in the answer."""
    finish_reason: str = ""
    input: Sequence[Mapping[str, str]] = ()
    model: str = ""
    params: Mapping[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: Mapping[str, str] | None = None
    """{"code", "message"}, the reason why there is no answer; None if there is one."""

    def _message(self) -> JsonObject:
        message = {"role": "assistant", "content": self.text}
        return {**message, "tool_calls": [*self.tools]} if self.tools else message

    def sample(self) -> JsonObject:
        parameters = ("max_completion_tokens", "seed", "temperature", "top_p")
        return {
            "error": self.error or NO_ERROR,
            "finish_reason": self.finish_reason,
            "input": list(self.input),
            "output": [] if self.error or self.text is None else [self._message()],
            "model": self.model,
            **{name: self.params.get(name, 0) for name in parameters},
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": self.completion_tokens,
                "total_tokens": self.prompt_tokens + self.completion_tokens,
            },
        }


async def grade_item(context: Context, claim: EvalItemClaim) -> Graded:
    """Return the item's result. Raise Postponed if a later attempt may give another one."""
    criteria = CRITERIA.validate_python(await run_sync(_criteria, context, claim.work.eval_id))
    source = SOURCE.validate_python(claim.work.data_source | {"source": NO_ROWS})
    row = EvalRow.model_validate_json(claim.item.row)
    if isinstance(source, CompletionsSource):
        kept = (claim.item.result or {}).get("answer")
        answer = await _sampled(context, claim, source, row) if kept is None else Answer(**kept)
        uses = [Use(answer.model, answer.prompt_tokens, answer.completion_tokens)]
    else:
        answer, uses = Answer(row.answer, row.tools), []
    if answer.error is not None:
        return Graded(ItemStatus.ERRORED, _all_errored(claim), {"results": [], "sample": answer.sample()})
    try:
        case = Case(answer.text or "", row.item, answer.tools, answered=answer.text is not None)
        outcomes = await grades_of(context, claim, criteria, case)
    except Ungraded as postponed:
        if isinstance(source, CompletionsSource):
            postponed.kept["answer"] = asdict(answer)
        if isinstance(postponed, NoJudgement) and postponed.since < math.inf:
            postponed.kept["since"] = postponed.since
        raise
    return Graded(
        status_of(outcomes),
        {outcome.name: outcome.kind for outcome in outcomes},
        {"results": [outcome.result() for outcome in outcomes], "sample": answer.sample()},
        (*uses, *(use for outcome in outcomes for use in outcome.uses)),
        judges_answered=judges_answered(outcomes),
    )


def _criteria(context: Context, eval_id: str) -> list[JsonObject]:
    with context.database.read() as session:
        return session.get_one(Eval, eval_id).criteria


async def _sampled(context: Context, claim: EvalItemClaim, source: CompletionsSource, row: EvalRow) -> Answer:
    """Return the model's answer to the row, or an answer with the error. Raise Postponed if a later attempt may
    succeed."""
    caller = Caller(claim.work.project_id, claim.work.key_id, "write")
    try:
        messages = source.input_messages.render(row.item)
        body = validated(CHAT, source.chat_body(messages))
        content, usage = await complete(
            context, caller, CHAT, body, answer_id=new_id(CHAT.id_prefix), faults=claim.item.faults
        )
    except GradingError as error:
        return Answer(model=source.model, error={"code": error.flag, "message": error.message})
    except ServiceError as error:
        return Answer(model=source.model, error={"code": error.code or error.type, "message": error.message})
    choice = content["choices"][0]
    params = source.sampling_params
    longest = params.max_completion_tokens or context.settings.sample_max_tokens
    return Answer(
        text=choice["message"]["content"] or "",
        tools=choice["message"].get("tool_calls") or (),
        finish_reason=choice["finish_reason"],
        input=[{"role": str(each["role"]), "content": _text(each.get("content"))} for each in messages],
        model=source.model,
        params=params.model_dump(exclude_none=True) | {"max_completion_tokens": longest},
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def _text(content: object) -> str:
    """Return the content of a message as text. A message that only calls functions has none."""
    if content is None:
        return ""
    return content if isinstance(content, str) else json.dumps(content)


def internal_error(claim: EvalItemClaim) -> Graded:
    """Return the result of an item that could not be graded because of an internal error of this server."""
    message = (
        f"An evaluation worker failed on item {claim.item.line} of {claim.work.id}: report both, which its log names"
    )
    answer = Answer(error={"code": "internal_error", "message": message})
    return Graded(ItemStatus.ERRORED, _all_errored(claim), {"results": [], "sample": answer.sample()})


def _all_errored(claim: EvalItemClaim) -> dict[str, str]:
    return dict.fromkeys(claim.work.criteria_counts, "errored")
