"""The answer to one request of a batch: the response that its endpoint would give."""

from anyio.to_thread import run_sync

from api.background.completion import ENDPOINTS, Endpoint, complete, validated
from api.batch_worker.results import result_line
from api.context import Caller, Context
from api.errors import InvalidRequest, ServiceError
from api.infra.storage import ObjectMissing
from api.records import files
from api.records.batch_items import BatchItemClaim, ItemResult, item_id
from api.schemas.completion_requests import ChatBody, CompletionBody
from api.spec.batch import BatchLine
from api.spec.ids import new_id

MAX_RESULT_BYTES = 16 * 1024**2


class InputChanged(ServiceError):
    code = "input_file_missing"

    def __init__(self) -> None:
        super().__init__("The input file is missing from the storage of this server")


class AnswerTooLarge(InvalidRequest):
    code = "answer_too_large"


async def answer(context: Context, claim: BatchItemClaim) -> ItemResult:
    """Return the item's result: a response, or an error that a repetition would not change.

    Raise Postponed if a later attempt may give another result.
    """
    endpoint, batch = ENDPOINTS[claim.work.endpoint], claim.work
    answer_id, caller = new_id(endpoint.id_prefix), Caller(batch.project_id, batch.key_id, "write")
    try:
        body = await _body(context, claim, endpoint)
        faults = claim.item.faults
        content, usage = await complete(context, caller, endpoint, body, answer_id=answer_id, faults=faults)
    except ServiceError as error:
        return ItemResult(False, _response(claim, error.status, answer_id, dict(error.body())))
    text = _response(claim, 200, answer_id, content)
    if len(text) > MAX_RESULT_BYTES:
        too_large = AnswerTooLarge(
            f"The answer has {len(text)} bytes, and an answer in a batch may have {MAX_RESULT_BYTES}: request fewer "
            "tokens, log-probabilities or choices"
        )
        return ItemResult(False, _response(claim, too_large.status, answer_id, dict(too_large.body())))
    reasoning_tokens = usage.completion_tokens_details.reasoning_tokens
    return ItemResult(True, text, usage.prompt_tokens, usage.completion_tokens, reasoning_tokens)


async def _body(context: Context, claim: BatchItemClaim, endpoint: Endpoint) -> ChatBody | CompletionBody:
    key = await run_sync(_storage_key, context, claim)
    try:
        content = await context.storage.read_range(key, start=claim.item.start, length=claim.item.bytes)
    except ObjectMissing:
        raise InputChanged from None
    return validated(endpoint, BatchLine.model_validate_json(content).body)


def _storage_key(context: Context, claim: BatchItemClaim) -> str:
    with context.database.read() as session:
        file = files.get_for_job(session, claim.work.project_id, claim.work.input_file)
    if file is None or file.storage_key is None:
        raise InputChanged
    return file.storage_key


def internal_error(claim: BatchItemClaim) -> ItemResult:
    """Return the result of a request that could not be answered because of an internal error of this server."""
    message = f"A batch worker failed on line {claim.item.line} of {claim.work.id}: report both, which its log names"
    error = ServiceError(message, code="internal_error")
    request_id = item_id(claim.work.id, claim.item.line)
    return ItemResult(False, _response(claim, error.status, request_id, dict(error.body())))


def _response(claim: BatchItemClaim, status: int, request_id: str, body: dict[str, object]) -> str:
    response = {"status_code": status, "request_id": request_id, "body": body}
    return result_line(claim.work.id, claim.item.line, claim.item.custom_id, response=response)
