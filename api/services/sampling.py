"""Completions: sends a request to a sampler, and yields the sampler's reports as they arrive."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

import redis
import structlog
from anyio import CancelScope
from anyio.to_thread import run_sync
from redis.exceptions import OutOfMemoryError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import DO_NOT_RETRY, InvalidRequest, ServiceError, TooManyRequests, Unavailable
from api.infra.artifacts import digest_of, trained_artifacts
from api.infra.sample_queue import NoSampler, Producer, SampleJob, SamplerDead, TooManyOpen
from api.records import base_models, usage
from api.records.jobs import Job
from api.records.usage import Account
from api.services.models import NoSuchModel, find_trained
from api.spec.artifacts import Artifact
from api.spec.resolve import ResolvedRecipe
from api.spec.sampler_reports import AnswerReport, Failed, Started
from api.spec.sampling import ModelFiles, QueuedRequest, SampledModel, SamplingRequest

log = structlog.get_logger(__name__)

RETRY = {"retry-after": "5"}
EARLY_S = 5.0
"""Seconds by which a request may end before its deadline because the broker's clock runs faster."""
MAX_BATCH_WORKERS = 16
"""A project may have as many background requests in the queue as this number of batch workers send at once. The limit
bounds the requests that killed workers leave behind."""


class CannotAnswer(InvalidRequest):
    param = "model"
    code = "model_not_supported"

    def __init__(self, model_id: str, why: str) -> None:
        super().__init__(f"The model '{model_id[:256]}' {why}")


class TooManyTokens(InvalidRequest):
    code = "invalid_value"

    def __init__(self, param: str, requested: int, longest: int) -> None:
        super().__init__(f"{param}: {requested} is more than the {longest} that this server allows", param=param)


class NoSamplerAvailable(Unavailable):
    code = "no_sampler"

    def __init__(self) -> None:
        super().__init__(
            "No sampler is running, so no model can answer. The operator starts one with `attune up` or "
            "`attune worker --stage sample`",
            headers=RETRY,
        )


class SamplerLost(Unavailable):
    code = "sampler_lost"

    def __init__(self) -> None:
        super().__init__("The sampler stopped before the answer was complete: retry", headers=RETRY)


class TooSlow(Unavailable):
    code = "timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The answer was not complete within {timeout_s:g} s: request fewer tokens, or retry when the "
            "server is less busy",
            headers=DO_NOT_RETRY,
        )


class Busy(TooManyRequests):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This project already waits for {limit} answers, the most that it may have at once: retry in 1 s",
            headers={"retry-after": "1"},
        )


class SamplerFailed(ServiceError):
    def __init__(self, answer_id: str, report: Failed) -> None:
        message = report["message"] or "The sampler failed"
        super().__init__(f"{message} (the operator finds details in the log as {answer_id})", code=report["reason"])


@dataclass(frozen=True)
class Answer:
    """A request that a sampler has begun to answer."""

    id: str
    prompt_tokens: int
    reports: AsyncIterator[AnswerReport]
    """Reports of the types in AnswerReport (docs/internals/sampling.md). Iterating may raise the errors of
    `sample`."""


class AnswerTokens:
    """Counts the tokens of an answer for the usage ledger."""

    def __init__(self) -> None:
        self.prompt = 0
        self._choices: dict[int, int] = {}

    def count(self, report: AnswerReport) -> None:
        """Count the tokens of a report. The last report of a choice has the exact number. Until then, each piece of
        text counts as at least one token, so that a client cannot avoid the count by disconnecting before the end."""
        index = report["index"]
        if report["type"] == "finished":
            self._choices[index] = report["tokens"]
        else:
            tokens = report["tokens"] or () if report["type"] == "text" else ()
            self._choices[index] = self._choices.get(index, 0) + max(1, len(tokens))

    @property
    def completion(self) -> int:
        return sum(self._choices.values())


@asynccontextmanager
async def sample(
    context: Context,
    caller: Caller,
    model_id: str,
    request: SamplingRequest,
    *,
    answer_id: str,
    user: str | None = None,
    background: bool = False,
) -> AsyncIterator[Answer]:
    """Send a request, and yield its answer once a sampler has begun to answer. At the end of the block, withdraw the
    request and record its usage.

    `background`: the request waits until no request of a client waits. It counts towards a limit of its own, not
    towards the project's limit of waiting requests.

    Raise NoSuchModel, CannotAnswer, Busy, NoSamplerAvailable, SamplerLost, TooSlow, SamplerFailed,
    InvalidRequest.
    """
    settings = context.settings
    content = await run_sync(_content, context, caller, model_id, request)
    if not settings.broker_url.get_secret_value():
        raise NoSamplerAvailable
    job = SampleJob(answer_id, caller.project_id, content, background)
    async with Producer(settings.broker_url) as producer:
        with _broker_errors():
            await _submit(producer, job, context)
        log.info("sample_asked", answer_id=answer_id, model=model_id, user=user)
        tokens = AnswerTokens()
        try:
            async with (
                aclosing(_reports(producer, job, settings.sample_timeout_s)) as reports,
                aclosing(_after_start(reports, tokens)) as answer_reports,
            ):
                started = await anext(reports)
                assert started["type"] == "started", started
                tokens.prompt = started["prompt_tokens"]
                yield Answer(answer_id, started["prompt_tokens"], answer_reports)
        finally:
            with CancelScope(shield=True):  # also when the client disconnects, which cancels this request
                await _withdraw(producer, job)
                await run_sync(_record_usage, context, Account(caller.project_id, caller.key_id, model_id), tokens)


async def _submit(producer: Producer, job: SampleJob, context: Context) -> None:
    settings = context.settings
    limit = settings.batch_requests * MAX_BATCH_WORKERS if job.background else settings.sample_requests
    try:
        await producer.submit(job, timeout_s=settings.sample_timeout_s, limit=limit)
    except NoSampler:
        raise NoSamplerAvailable from None
    except TooManyOpen:
        raise Busy(limit) from None


async def _withdraw(producer: Producer, job: SampleJob) -> None:
    try:
        await producer.withdraw(job)
    except redis.RedisError as error:  # harmless: the request expires in Redis
        log.warning("not_withdrawn", answer_id=job.id, error=type(error).__name__)


async def _reports(producer: Producer, job: SampleJob, timeout_s: float) -> AsyncGenerator[Started | AnswerReport]:
    """Yield the reports of an answer. A report of an error is raised as an exception."""
    asked_at = time.monotonic()
    try:
        with _broker_errors():
            async for report in producer.reports(job):
                if report["type"] == "done":
                    return
                if report["type"] == "refused":
                    raise InvalidRequest(report["message"], param=report["param"], code=report["code"])
                # A request is cancelled at its deadline or by its withdrawal, and this one is not withdrawn yet.
                if report["type"] == "cancelled":
                    raise TimeoutError
                if report["type"] == "lost":
                    raise SamplerLost
                if report["type"] == "failed":
                    raise SamplerFailed(job.id, report)
                yield report
    except SamplerDead:
        raise SamplerLost from None
    except TimeoutError:
        if time.monotonic() - asked_at < timeout_s - EARLY_S:
            raise Unavailable(
                "The broker lost the request, as it does when it restarts: retry in 5 s", headers=RETRY
            ) from None
        raise TooSlow(timeout_s) from None


async def _after_start(
    reports: AsyncIterator[Started | AnswerReport], tokens: AnswerTokens
) -> AsyncGenerator[AnswerReport]:
    async for report in reports:
        if report["type"] != "started":
            tokens.count(report)
            yield report


def _record_usage(context: Context, account: Account, tokens: AnswerTokens) -> None:
    """Add the answer's tokens to the usage ledger. If the database cannot be written, the tokens are not counted, and
    the answer is still given."""
    if not tokens.prompt:
        return
    try:
        with context.database.write() as session:
            usage.add(session, account, prompt_tokens=tokens.prompt, completion_tokens=tokens.completion)
    except SQLAlchemyError as error:
        log.warning("usage_not_recorded", project_id=account.project_id, error=type(error).__name__)


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except OutOfMemoryError as error:
        log.warning("broker_full")
        raise Unavailable(
            "The broker is full: retry in 5 s. If it stays full, the operator has to raise its maxmemory", headers=RETRY
        ) from error
    except redis.RedisError as error:
        log.warning("broker_away", error=type(error).__name__)
        raise Unavailable("The broker cannot be reached at the moment: retry in 5 s", headers=RETRY) from error


def require_model(context: Context, caller: Caller, model_id: str) -> None:
    """Raise NoSuchModel or CannotAnswer if a request to the model would fail."""
    _model(context, caller, model_id)


def base_of(session: Session, caller: Caller, model_id: str) -> base_models.BaseModelRow | None:
    """Return the base model that this is, or was fine-tuned from; None if there is no such model."""
    if base := base_models.get(session, model_id):
        return base
    model = find_trained(session, caller, model_id)
    return None if model is None else base_models.get(session, session.get_one(Job, model.job_id).base_model)


def _content(context: Context, caller: Caller, model_id: str, request: SamplingRequest) -> QueuedRequest:
    """Return the content of the request in the sampler's queue: the client's request, and the files of the model."""
    return {"ask": request.model_dump(mode="json"), "model": _model(context, caller, model_id)}


def _model(context: Context, caller: Caller, model_id: str) -> SampledModel:
    """Return the files of the model: those of its base and of its adapter. For a fully fine-tuned model, its own files
    replace those of the base. Raise NoSuchModel, CannotAnswer."""
    with context.database.read() as session:
        if base := base_models.get(session, model_id):
            if base.facts.get("kind", "causal_lm") != "causal_lm":
                raise CannotAnswer(model_id, "is an encoder, which generates no text")
            return {"base": _base(base), "adapter": None, "technique": None}
        model = find_trained(session, caller, model_id)
        if model is None:
            raise NoSuchModel(model_id)
        recipe = ResolvedRecipe.model_validate(session.get_one(Job, model.job_id).resolved)
        trained = trained_artifacts(model.artifacts)  # no merged copy: the adapter gives the same answers
        whole = recipe.technique.whole_model
        base_files = _files(trained) if whole else _weights(session, caller, recipe.model)
    if recipe.method.output != "tokens":
        raise CannotAnswer(
            model_id, f"was trained with method {recipe.method.type}, so it scores texts and generates none"
        )
    if base_files is None:
        raise CannotAnswer(
            model_id, f"needs the weights of '{recipe.model}', which were deleted or which this project may not use"
        )
    return {
        "base": base_files,
        "adapter": {"name": model_id, "artifacts": trained},
        "technique": recipe.technique.model_dump(mode="json"),
    }


def _weights(session: Session, caller: Caller, name: str) -> ModelFiles | None:
    """Return the files of the model that an adapter was trained on: a base model, or a whole model that this project
    may use. Return None if the project may not use it or it was deleted."""
    if base := base_models.get(session, name):
        return _base(base)
    model = find_trained(session, caller, name)
    return None if model is None else _files(trained_artifacts(model.artifacts))


def _files(artifacts: list[Artifact]) -> ModelFiles:
    return {"digest": digest_of(artifacts), "artifacts": artifacts}


def _base(base: base_models.BaseModelRow) -> ModelFiles:
    end_tokens = base.facts.get("end_tokens", [])
    return {"digest": base.digest, "artifacts": base.artifacts, "name": base.name, "end_tokens": end_tokens}
