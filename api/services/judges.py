"""Judges: chat models that grade answers. A judge is a model of this server, or a model of another server that the
operator has configured.

The judgement of a question is stored, so that the same question of a project is asked only once. A judge is asked
again, with growing pauses, if it is busy, cannot be reached, does not answer, or answers with something other than a
judgement. After the last attempt, the question has no judgement, and the error gives the reason.

A judge that fails or takes too long may be away, or this one question may be too much for it. It counts as away unless
it has answered another question since the first such attempt at this one was sent.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import structlog
from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError, TooManyRequests, Unavailable
from api.infra.outside_judges import Cause, Reply, Unanswered
from api.records import base_models, judgements, usage
from api.records.database import is_outage
from api.records.usage import Account
from api.services import lineage, project_limits
from api.services.lineage import NO_PENDING, Pending
from api.services.sampling import Busy, SamplerFailed, SamplerLost, TooSlow, sample
from api.spec import catalog
from api.spec.graders import Case, GraderBase, GradingError, NamedModel, Question, Verdict
from api.spec.graders.base import content_hash
from api.spec.graders.judgement import MAX_TOKENS, conversation, parse, response_format
from api.spec.graders.model_grader import ModelGrader
from api.spec.ids import new_id
from api.spec.sampling import SamplingRequest

log = structlog.get_logger(__name__)

MAX_BACKOFF = 30
"""The longest pause between two attempts, in multiples of `judge_retry_s`."""


class InvalidJudge(InvalidRequest):
    """The named model cannot answer a grader's questions."""

    code = "invalid_judge"


class JudgeAway(Unavailable):
    """The judge could not be reached or was too busy. The same question may succeed later."""

    code = "judge_unavailable"


@dataclass(frozen=True)
class Judgement:
    """A model grader's grade of one answer."""

    reward: float
    label: str | None
    """The chosen label of a label_model grader."""
    messages: Sequence[dict[str, str]]
    """The conversation that the judge read."""
    text: str
    """The judge's answer."""
    model: str
    """The name that the judge gave in its reply. It may differ from the name in the grader."""
    prompt_tokens: int
    completion_tokens: int


def require(context: Context, session: Session, caller: Caller, grader: GraderBase, param: str = "grader") -> None:
    """Raise InvalidRequest unless each model that the grader names is a chat model that the project may use."""
    for path, named in grader.models().items():
        if require_model(context, session, caller, named, f"{param}.{path}"):
            raise InvalidJudge(
                f"{named.name} is a reward model, which only jobs can load: name a chat model", param=f"{param}.{path}"
            )


def require_model(
    context: Context, session: Session, caller: Caller, named: NamedModel, param: str, pending: Pending = NO_PENDING
) -> bool:
    """Return True for a reward model, False for a chat model. Raise InvalidRequest if the grader cannot use the
    model."""
    if named.name in context.settings.judges:
        return False
    if (base := base_models.get(session, named.name)) is not None:
        output = "tokens" if base.facts.get("kind", "causal_lm") == "causal_lm" else "labels"
        base_name = base.name
    else:
        producer = lineage.producing_job(session, caller.project_id, named.name, pending)
        if producer is None:
            raise InvalidJudge(
                f"The model `{named.name[:128]}` is neither a model that this project may use, nor one of the judges "
                "that the operator configured",
                param=param,
                code="model_not_found",
            )
        output, base_name = catalog.METHODS[producer.recipe["method"]["type"]].output, producer.base_model
        base = base_models.get(session, base_name)
    if base is None:  # removed, though checkpoints of a job that failed are left
        raise InvalidJudge(
            f"The base model of {named.name}, {base_name}, was removed", param=param, code="model_not_found"
        )
    if not base.facts.get("chat_template", True):
        raise InvalidJudge(
            f"{base_name} has no chat template for a grader's messages: name a model with one", param=param
        )
    _require_output(named, output, param)
    return output == "reward"


def _require_output(named: NamedModel, output: str, param: str) -> None:
    if output == "reward" and named.chat_only is not None:
        raise InvalidJudge(f"{named.name} is a reward model: {named.chat_only}", param=param)
    if output == "labels":
        raise InvalidJudge(f"{named.name} is a classifier: name a chat model or a reward model", param=param)
    if output == "tokens" and named.effort:
        raise InvalidJudge(
            f"{named.name} is a model of this server and takes no reasoning_effort: leave it out", param=param
        )


async def judge(
    context: Context, caller: Caller, grader: ModelGrader, case: Case, *, since: float = math.inf
) -> Judgement:
    """Return the grade of an answer. Raise GradingError; its subclass Unanswered, as `verdict_on` does, if the model
    gives no judgement."""
    question = grader.question(case)
    verdict = await verdict_on(context, caller, question, since=since)
    reward = grader.reward(case, {}, {question.key: verdict})
    return Judgement(
        reward,
        verdict.value if isinstance(verdict.value, str) else None,
        conversation(question),
        verdict.text,
        verdict.model,
        verdict.prompt_tokens,
        verdict.completion_tokens,
    )


async def ask(context: Context, caller: Caller, question: Question) -> Verdict:
    """Return the verdict on the question. If no attempt gives a judgement, the verdict holds the error."""
    try:
        return await verdict_on(context, caller, question)
    except GradingError as error:
        return Verdict.of(error)


async def verdict_on(context: Context, caller: Caller, question: Question, *, since: float = math.inf) -> Verdict:
    """Return the verdict on the question, after several attempts if needed. Raise Unanswered after the last attempt: it
    is `doubtful` if this question may be the cause, because the judge answers others, or died.

    `since`: that of the last Unanswered, for a question that is asked again after one. The judge then gets one attempt,
    unless it answers with something else than a judgement.
    """
    settings, attempt, again = context.settings, 0, since < math.inf
    while True:
        attempt += 1
        try:
            return await _attempt(context, caller, question)
        except Unanswered as failure:
            log.info("judge_unanswered", model=question.model, attempt=attempt, reason=failure.message)
            failure.since = since = min(since, failure.since)
            answers = context.judges_answered.get(question.model, 0.0) >= since
            if failure.cause is Cause.EITHER and (not answers or question.model in context.away_judges):
                failure.cause = Cause.JUDGE
            if failure.cause is Cause.QUESTION:
                context.away_judges.discard(question.model)
            once = failure.cause is not Cause.QUESTION and (again or question.model in context.away_judges)
            # A question that may have killed a sampler is not sent to the next one at once.
            tries = 1 if once or failure.cause is Cause.CRASH else settings.judge_tries
            if not failure.retry or attempt >= tries:
                if failure.away:
                    context.away_judges.add(question.model)
                raise
            backoff_s = settings.judge_retry_s * min(2 ** (attempt - 1), MAX_BACKOFF)
            jitter = random.uniform(0.75, 1.25)  # noqa: S311 (the jitter protects no secret)
            await asyncio.sleep(max(failure.wait_s, backoff_s * jitter))


async def _attempt(context: Context, caller: Caller, question: Question) -> Verdict:
    """Return the stored verdict on the same question. If there is none, ask the judge once and store the answer. Raise
    Unanswered if there is no usable answer."""
    try:
        digest = await run_sync(_digest, context, question)
        if (kept := await run_sync(_kept, context, caller, question, digest)) is not None:
            return kept
        async with context.judgements.turn(caller.project_id):
            reply = await _reply(context, caller, question)
        context.away_judges.discard(question.model)
        context.judges_answered[question.model] = time.time()
        await run_sync(_charge, context, caller, question, reply)
        value = _parsed(question, reply.text)
        await run_sync(_keep, context, caller, digest, reply)
    except SQLAlchemyError as error:
        if not is_outage(error):
            raise
        raise _unanswered("the database could not be reached", retry=True, cause=Cause.JUDGE) from None
    return Verdict(value, **asdict(reply))


def _digest(context: Context, question: Question) -> str:
    """Return the hash of everything that determines the judgement. The judgement is stored under this hash."""
    if (identity := context.outside_judges.identity(question.model)) is None:
        with context.database.read() as session:
            base = base_models.get(session, question.model)
        identity = [question.model if base is None else base.digest]
    schema = response_format(question)
    return content_hash([identity, conversation(question), vars(question.sampling), schema])


def _kept(context: Context, caller: Caller, question: Question, digest: str) -> Verdict | None:
    """Return the stored verdict, or None if there is none. A stored verdict costs no tokens: they were counted when the
    question was asked. Raise Unanswered if there is none and the project's tokens for judges are used up."""
    with context.database.read() as session:
        kept = judgements.find(session, caller.project_id, digest)
        if kept is not None:
            return Verdict(parse(question, kept.text), model=kept.model, text=kept.text)
        try:
            project_limits.require_judge_tokens(context, session, caller.project_id)
        except TooManyRequests as error:
            raise _unanswered(error.message, retry=False) from None
    return None


async def _reply(context: Context, caller: Caller, question: Question) -> Reply:
    asked_at = time.time()
    try:
        if context.outside_judges.identity(question.model) is not None:
            return await context.outside_judges.ask(question)
        return await _sampled(context, caller, question)
    except Unanswered as failure:
        if failure.doubtful:
            failure.since = asked_at
        raise


async def _sampled(context: Context, caller: Caller, question: Question) -> Reply:
    """Return the answer of a model of this server. The samplers answer the requests of clients before this one. Raise
    Unanswered if there is no answer."""
    sampling, name = question.sampling, question.model
    if sampling.reasoning_effort is not None:
        raise _unanswered(f"{name} is a model of this server and takes no reasoning_effort", retry=False)
    request = SamplingRequest.model_validate(
        {
            "messages": conversation(question),
            "max_tokens": min(sampling.max_tokens or MAX_TOKENS, context.settings.sample_max_tokens),
            "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "seed": sampling.seed,
            "response_format": response_format(question, short=True),
        }
    )
    text, completion_tokens, started = "", 0, False
    try:
        async with sample(context, caller, name, request, answer_id=new_id("judge-"), background=True) as answer:
            started = True
            async for report in answer.reports:
                if report["type"] == "text":
                    text += report["text"]
                elif report["type"] == "finished":
                    completion_tokens += report["tokens"]
            return Reply(text, name, answer.prompt_tokens, completion_tokens)
    except SamplerFailed:  # its message has the request's id, so no two would be equal
        raise _unanswered(f"{name} could not be asked: the sampler failed", retry=True) from None
    except (Unavailable, Busy) as error:
        cause = Cause.CRASH if isinstance(error, SamplerLost) else Cause.JUDGE
        if isinstance(error, TooSlow) and started:
            cause = Cause.EITHER
        raise _unanswered(f"{name} could not be asked: {error.message}", retry=True, cause=cause) from None
    except ServiceError as error:
        raise _unanswered(f"{name} cannot be asked: {error.message}", retry=False) from None


def _parsed(question: Question, text: str) -> float | str:
    try:
        return parse(question, text)
    except GradingError as error:
        raise Unanswered(error, retry=True) from None


def _charge(context: Context, caller: Caller, question: Question, reply: Reply) -> None:
    """Add the tokens to the usage ledger: as the judges' tokens, and for an outside judge also as prompt and completion
    tokens. For a model of this server, `sample` has added the latter."""
    spent = {"judge_tokens": reply.prompt_tokens + reply.completion_tokens}
    if context.outside_judges.identity(question.model) is not None:
        spent |= {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    with context.database.write() as session:
        usage.add(session, Account(caller.project_id, caller.key_id, question.model), **spent)


def _keep(context: Context, caller: Caller, digest: str, reply: Reply) -> None:
    with context.database.write() as session:
        judgements.add(session, caller.project_id, digest, **asdict(reply))


def _unanswered(message: str, *, retry: bool, cause: Cause = Cause.QUESTION) -> Unanswered:
    return Unanswered(GradingError("model_grader_server_error", message), retry=retry, cause=cause)
