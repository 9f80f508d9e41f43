"""Trying models out: a request to a sampler, and its answer as it comes."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from anyio import CancelScope
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError, TooManyRequests, Unavailable
from api.infra.artifacts import digest_of, trained_artifacts
from api.infra.sample_queue import Lost, NoSampler, Producer, SampleJob, TooMany
from api.records import base_models, models, permissions
from api.records.jobs import Job
from api.services.models import NoSuchModel
from api.spec.artifacts import Artifact
from api.spec.resolve import ResolvedRecipe
from api.spec.sampling import SamplingRequest

log = structlog.get_logger(__name__)

RETRY = {"retry-after": "5"}


class CannotAnswer(InvalidRequest):
    param = "model"
    code = "model_not_supported"

    def __init__(self, model_id: str, why: str) -> None:
        super().__init__(f"The model '{model_id[:256]}' {why}")


class TooLong(InvalidRequest):
    code = "invalid_value"

    def __init__(self, asked: int, longest: int) -> None:
        super().__init__(f"max_tokens: {asked} is more than the {longest} that this server allows", param="max_tokens")


class NoSamplerAvailable(Unavailable):
    code = "no_sampler"

    def __init__(self) -> None:
        super().__init__(
            "No sampler is running, so no model can be asked: the operator starts one with `attune up` or "
            "`attune worker --stage sample`",
            headers=RETRY,
        )


class SamplerLost(Unavailable):
    code = "sampler_lost"

    def __init__(self) -> None:
        super().__init__("The sampler that worked on this answer is gone: ask again", headers=RETRY)


class TooSlow(Unavailable):
    code = "timeout"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"The answer was not complete within {timeout_s:g} s: ask for fewer tokens, or when less is asked",
            headers={"x-should-retry": "false"},
        )


class Busy(TooManyRequests):
    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This project waits for {limit} answers already, as many as it may at once", headers={"retry-after": "1"}
        )


class SamplerFailed(ServiceError):
    def __init__(self, answer_id: str, report: dict[str, Any]) -> None:
        message = report["message"] or "The sampler had an error while it answered"
        super().__init__(f"{message} (the operator finds it in the log as {answer_id})", code=report["reason"])


@dataclass(frozen=True)
class Answer:
    """The reports of one request, after the first: it has begun."""

    id: str
    prompt_tokens: int
    reports: AsyncIterator[dict[str, Any]]
    """`text` and `finished` (docs/internals/sampling.md); raises what a caller can read."""


@asynccontextmanager
async def asked(
    context: Context, caller: Caller, model_id: str, ask: SamplingRequest, *, answer_id: str, user: str | None = None
) -> AsyncIterator[Answer]:
    """Send a request, wait until it begins, and withdraw it in the end, whatever happens.

    Raises NoSuchModel, CannotAnswer, TooLong, Busy, NoSamplerAvailable, SamplerLost, TooSlow, SamplerFailed,
    InvalidRequest.
    """
    settings = context.settings
    if ask.max_tokens > settings.sample_max_tokens:
        raise TooLong(ask.max_tokens, settings.sample_max_tokens)
    content = await run_sync(_content, context, caller, model_id, ask)
    if not settings.broker_url.get_secret_value():
        raise NoSamplerAvailable
    letter = SampleJob(answer_id, caller.project_id, content)
    async with Producer(settings.broker_url) as sender:
        with _broker_named():
            await _submit(sender, letter, context)
        log.info("sample_asked", answer_id=answer_id, model=model_id, user=user)
        try:
            async with aclosing(_followed(sender, letter, settings.sample_timeout_s)) as reports:
                started = await anext(reports)
                yield Answer(answer_id, started["prompt_tokens"], reports)
        finally:
            with CancelScope(shield=True):  # also when the client is gone, which cancels all that it waited for
                await _withdraw(sender, letter)


async def _submit(sender: Producer, letter: SampleJob, context: Context) -> None:
    settings = context.settings
    try:
        await sender.submit(letter, timeout_s=settings.sample_timeout_s, limit=settings.sample_requests)
    except NoSampler:
        raise NoSamplerAvailable from None
    except TooMany:
        raise Busy(settings.sample_requests) from None


async def _withdraw(sender: Producer, letter: SampleJob) -> None:
    try:
        await sender.withdraw(letter)
    except redis.RedisError as error:  # it expires
        log.warning("not_withdrawn", answer_id=letter.id, error=type(error).__name__)


async def _followed(sender: Producer, letter: SampleJob, timeout_s: float) -> AsyncGenerator[dict[str, Any]]:
    """Reports up to the last; what is an error is raised."""
    try:
        with _broker_named():
            async for report in sender.reports(letter):
                if report["type"] == "done":
                    return
                if report["type"] == "refused":
                    raise InvalidRequest(report["message"], param=report["param"], code=report["code"])
                if report["type"] == "cancelled":  # by its deadline: nobody else cancels it while we listen
                    raise TimeoutError
                if report["type"] == "lost":
                    raise SamplerLost
                if report["type"] == "failed":
                    raise SamplerFailed(letter.id, report)
                yield report
    except Lost:
        raise SamplerLost from None
    except TimeoutError:
        raise TooSlow(timeout_s) from None


@contextmanager
def _broker_named() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        log.warning("broker_away", error=type(error).__name__)
        raise Unavailable("The broker cannot be reached at the moment", headers=RETRY) from error


def _content(context: Context, caller: Caller, model_id: str, ask: SamplingRequest) -> dict[str, Any]:
    """What a sampler needs to know: the request, and which files the model is made of."""
    return {"ask": ask.model_dump(mode="json"), "model": _model(context, caller, model_id)}


def _model(context: Context, caller: Caller, model_id: str) -> dict[str, Any]:
    """{base: {digest, artifacts}, adapter: {name, artifacts} | None, technique}. A whole model is its own base."""
    with context.database.read() as session:
        if base := base_models.get(session, model_id):
            if base.facts.get("kind", "causal_lm") != "causal_lm":
                raise CannotAnswer(model_id, "is an encoder, which writes no text")
            return {"base": _base(base), "adapter": None, "technique": None}
        owner_id = permissions.owner_for(session, caller.project_id, model_id)
        found = models.get(session, owner_id, model_id) or models.get_checkpoint(session, owner_id, model_id)
        if found is None:
            raise NoSuchModel(model_id)
        recipe = ResolvedRecipe.model_validate(session.get_one(Job, found.job_id).resolved)
        own = trained_artifacts(found.artifacts)  # the merged copy that may stand beside an adapter says the same
        whole = recipe.technique.whole_model
        base_files = _files(own) if whole else _weights(session, caller, recipe.model)
    if recipe.method.output != "tokens":
        raise CannotAnswer(model_id, f"was trained with method {recipe.method.type}: it scores texts and writes none")
    if base_files is None:
        raise CannotAnswer(model_id, f"needs the weights of '{recipe.model}', which are gone or not this project's")
    return {
        "base": base_files,
        "adapter": {"name": model_id, "artifacts": own},
        "technique": recipe.technique.model_dump(mode="json"),
    }


def _weights(session: Session, caller: Caller, name: str) -> dict[str, Any] | None:
    """Those that an adapter lies on: a base model's, or those of a whole model that this project may use."""
    if base := base_models.get(session, name):
        return _base(base)
    owner_id = permissions.owner_for(session, caller.project_id, name)
    made = models.get(session, owner_id, name) or models.get_checkpoint(session, owner_id, name)
    return None if made is None else _files(trained_artifacts(made.artifacts))


def _files(artifacts: list[Artifact]) -> dict[str, Any]:
    return {"digest": digest_of(artifacts), "artifacts": artifacts}


def _base(base: base_models.BaseModelRow) -> dict[str, Any]:
    return {"digest": base.digest, "artifacts": base.artifacts}
