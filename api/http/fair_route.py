"""Routes that share the threads fairly between projects.

There are few threads, and a request holds one while it waits for the database or the storage. Requests of one project
therefore never hold all of them. Routes that are coroutines need no thread, and start without waiting for a turn.
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
    """Return the endpoint, wrapped to turn the model that it returns into a response in the endpoint's own thread.

    Otherwise FastAPI would validate the model again in a second thread, and serialize it on the event loop.
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
    """Wait for the project's turn, run `work` in a thread, and return the model from `work` as a response.

    This is for routes that are coroutines, because they first wait for something else.
    """
    async with context.requests.turn(caller.project_id):
        body = await anyio.to_thread.run_sync(lambda: work().model_dump_json(by_alias=True))
    return Response(body, media_type="application/json")


def _in_turn(handler: Handler) -> Handler:
    async def waiting(request: Request) -> Response:
        context: Context = request.app.state.context
        try:
            await request.body()  # before the turn, because the client may send it slowly
        except ClientDisconnect:
            raise InvalidRequest("The connection was lost before the whole body arrived") from None
        async with context.requests.turn(request.state.caller.project_id):
            return await handler(request)

    return waiting
