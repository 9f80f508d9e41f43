"""The answer to one request of a batch, as its endpoint would give it."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from api.batch_worker.results import result_line
from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError, Unavailable
from api.http.completion_writer import ChatWriter, CompletionWriter, ResponseWriter, collect
from api.http.error_handlers import as_invalid_request
from api.infra.storage import ObjectMissing
from api.records.batch_items import ItemClaim, ItemResult
from api.schemas.completion_requests import ChatBody, CompletionBody
from api.schemas.completions import Usage
from api.services.sampling import Busy, NoSamplerAvailable, SamplerFailed, SamplerLost, TooSlow, sample
from api.spec.batch import BatchLine
from api.spec.ids import new_id

MAX_FAULTS = 3
"""Attempts that end with a fault, after which the fault is the request's result."""
MAX_RESULT_BYTES = 16 * 1024**2
FAULT_WAIT_S = 10.0
OUTAGE_WAIT_S = 5.0


@dataclass(frozen=True)
class Endpoint:
    body: type[ChatBody | CompletionBody]
    writer: type[ResponseWriter]
    id_prefix: str


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/chat/completions": Endpoint(ChatBody, ChatWriter, "chatcmpl-"),
    "/v1/completions": Endpoint(CompletionBody, CompletionWriter, "cmpl-"),
}


class Postponed(Exception):
    """The request was not answered and is due again later."""

    def __init__(self, wait_s: float, *, fault: bool = False, outage: bool = False) -> None:
        """`fault`: the request may be the cause. `outage`: no other request can be answered either."""
        super().__init__(wait_s)
        self.wait_s, self.fault, self.outage = wait_s, fault, outage


class InputChanged(ServiceError):
    code = "input_file_missing"


class AnswerTooLarge(InvalidRequest):
    code = "answer_too_large"


async def answer(context: Context, claim: ItemClaim) -> ItemResult:
    """Return the item's result: a response, or an error that a repetition would not change. Raise Postponed."""
    endpoint = ENDPOINTS[claim.endpoint]
    answer_id = new_id(endpoint.id_prefix)
    try:
        body = await _body(context, claim, endpoint)
        content, usage = await _complete(context, claim, endpoint, body, answer_id)
    except ServiceError as error:
        return ItemResult(False, _response(claim, error.status, answer_id, dict(error.body())))
    text = _response(claim, 200, answer_id, content)
    if len(text) > MAX_RESULT_BYTES:
        too_large = AnswerTooLarge(
            f"The answer has {len(text)} bytes, and an answer in a batch may have {MAX_RESULT_BYTES}: request fewer "
            "tokens, log-probabilities or choices"
        )
        return ItemResult(False, _response(claim, too_large.status, answer_id, dict(too_large.body())))
    return ItemResult(True, text, usage.prompt_tokens, usage.completion_tokens)


async def _body(context: Context, claim: ItemClaim, endpoint: Endpoint) -> ChatBody | CompletionBody:
    try:
        content = await context.storage.read_range(claim.storage_key, start=claim.start, length=claim.bytes)
    except ObjectMissing:
        raise InputChanged("The input file is missing from the storage of this server") from None
    raw = BatchLine.model_validate_json(content).body
    try:
        body = endpoint.body.model_validate(raw)
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise as_invalid_request(found, raw, endpoint.body) from None  # type: ignore[arg-type]
    if body.stream:
        raise InvalidRequest("stream: a batch returns whole answers: leave it out", param="stream")
    return body


async def _complete(
    context: Context, claim: ItemClaim, endpoint: Endpoint, body: ChatBody | CompletionBody, answer_id: str
) -> tuple[dict[str, object], Usage]:
    """Return the completion object and its usage. Raise Postponed after an error that a later attempt may not have."""
    request = body.sampling_request(context.settings.sample_max_tokens)
    writer = endpoint.writer(answer_id, body.model, with_logprobs=request.top_logprobs is not None)
    caller = Caller(claim.project_id, claim.key_id, "write")
    started = False
    try:
        async with sample(
            context, caller, body.model, request, answer_id=answer_id, user=body.end_user, background=True
        ) as answer:
            started = True
            whole = await collect(writer, answer)
    except (SamplerLost, SamplerFailed, TooSlow) as error:
        waited_only = isinstance(error, TooSlow) and not started
        if waited_only or claim.faults + 1 < MAX_FAULTS:
            raise Postponed(FAULT_WAIT_S, fault=not waited_only) from error
        raise
    except Busy as error:
        raise Postponed(OUTAGE_WAIT_S) from error
    except Unavailable as error:
        if isinstance(error, NoSamplerAvailable) or type(error) is Unavailable:  # no sampler, or no broker
            raise Postponed(OUTAGE_WAIT_S, outage=True) from error
        raise
    content = whole.model_dump(mode="json")
    return content, Usage.model_validate(content["usage"])


def internal_error(claim: ItemClaim) -> ItemResult:
    """Return the result of a request that this server cannot answer because of a fault of its own."""
    error = ServiceError(
        "An unexpected error occurred on the server: its log names this request", code="internal_error"
    )
    return ItemResult(False, _response(claim, error.status, claim.id, dict(error.body())))


def _response(claim: ItemClaim, status: int, request_id: str, body: dict[str, object]) -> str:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return result_line(claim.batch_id, claim.line, claim.custom_id, response=response)
