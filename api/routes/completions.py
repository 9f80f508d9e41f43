"""Trying models out, as OpenAI's clients ask: whole, or streamed as server-sent events.

These routes are coroutines: an answer takes seconds to minutes, and must not hold one of the threads that all other
routes share.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from api.context import Caller
from api.errors import ServiceError
from api.http.completion_writer import ChatForm, CompletionForm, ResponseWriter, collected, events
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

LOOK_S = 0.5
"""How often it is looked whether the client is still there."""


@router.post("/chat/completions", response_model=ChatCompletion, responses=ANSWERS)
async def create_chat_completion(body: ChatBody, request: Request, context: Ctx, caller: Who) -> Response:
    """Ask a base model, a fine-tuned one or a checkpoint. For trying and grading: one answer after the other."""
    ask = body.ask(context.settings.sample_max_tokens)
    form = ChatForm(new_id("chatcmpl-"), body.model, with_logprobs=ask.top_logprobs is not None)
    return await _answer(body, ask, form, request, context, caller)


@router.post("/completions", response_model=Completion, responses=ANSWERS)
async def create_completion(body: CompletionBody, request: Request, context: Ctx, caller: Who) -> Response:
    """Have a model continue texts, or tokens, without a chat template."""
    ask = body.ask(context.settings.sample_max_tokens)
    form = CompletionForm(new_id("cmpl-"), body.model, with_logprobs=ask.top_logprobs is not None)
    return await _answer(body, ask, form, request, context, caller)


async def _answer(
    body: SamplingBody, ask: SamplingRequest, form: ResponseWriter, request: Request, context: Ctx, caller: Caller
) -> Response:
    async with AsyncExitStack() as stack:
        asked = sampling.asked(context, caller, body.model, ask, answer_id=form.id, user=body.end_user)
        answer = await _unless_gone(request, stack.enter_async_context(asked))
        if not body.stream:
            whole = await _unless_gone(request, collected(form, answer))
            return JSONResponse(whole.model_dump(mode="json"))
        lines = events(form, answer, with_usage=body.with_usage)
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
    """Nobody reads this."""

    def __init__(self) -> None:
        super().__init__("The client closed the connection", code="client_gone")


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The work's result; ends the work when the client has gone away."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=LOOK_S))[0]:
            if await request.is_disconnected():
                raise ClientGone
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
