"""Routes that share the threads fairly between projects.

There are few threads, and a request holds one while it waits for the database or the storage. No project can hold all
of them. Routes that are coroutines need no thread and do not wait.
"""

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.schemas.common import errors

Handler = Callable[[Request], Coroutine[object, object, Response]]


class FairRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., object], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            options["responses"] = errors(429) | (options.get("responses") or {})
            endpoint = _with_body(endpoint, exclude_none=options.get("response_model_exclude_none", False))
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        return handler if inspect.iscoroutinefunction(self.endpoint) else _in_turn(handler)


def _with_body(endpoint: Callable[..., Any], *, exclude_none: bool) -> Callable[..., Any]:
    """Return an endpoint that turns a model into a response's body, all in the endpoint's thread.

    FastAPI would validate the model again in a second thread, and serialize it on the event loop.
    """

    @functools.wraps(endpoint)
    def call(*positional: Any, **named: Any) -> Any:
        result = endpoint(*positional, **named)
        if not isinstance(result, BaseModel):
            return result
        body = result.model_dump_json(by_alias=True, exclude_none=exclude_none)
        return Response(body, media_type="application/json")

    return call


async def answer_in_turn(context: Context, caller: Caller, work: Callable[[], BaseModel]) -> Response:
    """Return the model that `work` returns as a response. `work` runs in a thread as soon as it is the project's turn.

    For routes that are coroutines, because they first wait for something else.
    """
    async with context.requests.turn(caller.project_id):
        body = await anyio.to_thread.run_sync(lambda: work().model_dump_json(by_alias=True))
    return Response(body, media_type="application/json")


def _in_turn(handler: Handler) -> Handler:
    async def waiting(request: Request) -> Response:
        context: Context = request.app.state.context
        try:
            await request.body()  # as fast as the client sends it, so before the turn
        except ClientDisconnect:
            raise InvalidRequest("The connection was lost before the whole body arrived") from None
        async with context.requests.turn(request.state.caller.project_id):
            return await handler(request)

    return waiting
