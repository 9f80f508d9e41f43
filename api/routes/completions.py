"""Chat completions and completions, whole or streamed as server-sent events.

These routes are coroutines, because an answer takes seconds to minutes and must not hold one of the threads that the
other routes share.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from api.context import Caller
from api.errors import ServiceError
from api.http.completion_writer import ChatWriter, CompletionWriter, ResponseWriter, collect, stream
from api.http.deps import Ctx, Who
from api.schemas.common import EVENT_STREAM, errors
from api.schemas.completion_requests import ChatBody, CompletionBody, SamplingBody
from api.schemas.completions import ChatCompletion, Completion
from api.services import sampling
from api.spec.ids import new_id
from api.spec.sampling import SamplingRequest

router = APIRouter(tags=["sampling"])

T = TypeVar("T")

ANSWERS = errors(404, 429, 500) | {200: {"content": EVENT_STREAM}}

POLL_S = 0.5
"""Seconds between checks that the client is still connected."""


@router.post("/chat/completions", response_model=ChatCompletion, responses=ANSWERS)
async def create_chat_completion(body: ChatBody, request: Request, context: Ctx, caller: Who) -> Response:
    """Answer a chat with a base model, a fine-tuned model or a checkpoint: for trials and grading, not for serving."""
    sampling_request = body.sampling_request(context.settings.sample_max_tokens)
    writer = ChatWriter(new_id("chatcmpl-"), body.model, with_logprobs=sampling_request.top_logprobs is not None)
    return await _answer(body, sampling_request, writer, request, context, caller)


@router.post("/completions", response_model=Completion, responses=ANSWERS)
async def create_completion(body: CompletionBody, request: Request, context: Ctx, caller: Who) -> Response:
    """Continue texts or token sequences without a chat template."""
    sampling_request = body.sampling_request(context.settings.sample_max_tokens)
    writer = CompletionWriter(new_id("cmpl-"), body.model, with_logprobs=sampling_request.top_logprobs is not None)
    return await _answer(body, sampling_request, writer, request, context, caller)


async def _answer(
    body: SamplingBody,
    sampling_request: SamplingRequest,
    writer: ResponseWriter,
    request: Request,
    context: Ctx,
    caller: Caller,
) -> Response:
    async with AsyncExitStack() as stack:
        sampled = sampling.sample(
            context, caller, body.model, sampling_request, answer_id=writer.id, user=body.end_user
        )
        answer = await _until_disconnect(request, stack.enter_async_context(sampled))
        if not body.stream:
            whole = await _until_disconnect(request, collect(writer, answer))
            return JSONResponse(whole.model_dump(mode="json"))
        lines = stream(writer, answer, with_usage=body.with_usage)
        return StreamingResponse(
            _until_closed(lines, stack.pop_all()),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )


async def _until_closed(lines: AsyncIterator[bytes], stack: AsyncExitStack) -> AsyncIterator[bytes]:
    async with stack:
        async for line in lines:
            yield line


class ClientGone(ServiceError):
    """The client disconnected. It never receives this error."""

    def __init__(self) -> None:
        super().__init__("The client closed the connection", code="client_gone")


async def _until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Return the result of the work. End the work if the client disconnects."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=POLL_S))[0]:
            if await request.is_disconnected():
                raise ClientGone
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
