"""A completion for a request of a batch or an eval: the body that the request's endpoint would return. Samplers serve
the requests of clients first."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from api.background import postponed
from api.background.postponed import MAX_FAULTS, Postponed
from api.context import Caller, Context
from api.errors import InvalidRequest, Unavailable
from api.http.completion_writer import ChatWriter, CompletionWriter, ResponseWriter, collect
from api.http.error_handlers import as_invalid_request
from api.schemas.completion_requests import ChatBody, CompletionBody
from api.schemas.completions import Usage
from api.services.sampling import Busy, NoSamplerAvailable, SamplerFailed, SamplerLost, TooSlow, sample
from api.spec.fields import JsonObject


@dataclass(frozen=True)
class Endpoint:
    body: type[ChatBody | CompletionBody]
    writer: type[ResponseWriter]
    id_prefix: str


CHAT = Endpoint(ChatBody, ChatWriter, "chatcmpl-")
ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": Endpoint(CompletionBody, CompletionWriter, "cmpl-"),
}


def validated(endpoint: Endpoint, raw: JsonObject) -> ChatBody | CompletionBody:
    """Return the body of the request, parsed as its endpoint would. Raise InvalidRequest if the endpoint would refuse
    it."""
    try:
        body = endpoint.body.model_validate(raw)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise as_invalid_request(found, raw, endpoint.body) from None  # type: ignore[arg-type]
    if body.stream:
        raise InvalidRequest(
            "stream is not supported in batches and evals, where each answer is stored when it is complete: leave it "
            "out",
            param="stream",
        )
    return body


async def complete(
    context: Context,
    caller: Caller,
    endpoint: Endpoint,
    body: ChatBody | CompletionBody,
    *,
    answer_id: str,
    faults: int,
) -> tuple[JsonObject, Usage]:
    """Return the completion object and its usage. `faults`: number of earlier attempts that ended with a fault.

    Raise Postponed if a later attempt may succeed, and ServiceError after other errors.
    """
    request = body.sampling_request(context.settings.sample_max_tokens)
    writer = endpoint.writer(answer_id, body.model, with_logprobs=request.top_logprobs is not None)
    started = False
    try:
        async with sample(
            context, caller, body.model, request, answer_id=answer_id, user=body.end_user, background=True
        ) as answer:
            started = True
            whole = await collect(writer, answer)
    except (SamplerLost, SamplerFailed, TooSlow) as error:
        waited_only = isinstance(error, TooSlow) and not started
        if waited_only or faults + 1 < MAX_FAULTS:
            raise Postponed(postponed.FAULT_WAIT_S, fault=not waited_only) from error
        raise
    except Busy as error:
        raise Postponed(postponed.OUTAGE_WAIT_S) from error
    except Unavailable as error:
        if isinstance(error, NoSamplerAvailable) or type(error) is Unavailable:  # no sampler, or no broker
            raise Postponed(postponed.OUTAGE_WAIT_S, outage=True) from error
        raise
    content = whole.model_dump(mode="json")
    return content, Usage.model_validate(content["usage"])
