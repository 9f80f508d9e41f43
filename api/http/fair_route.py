"""Routes that share the threads fairly between projects.

There are few threads, and a request holds one while it waits for the database or the storage. No project can hold all
of them. Routes that are coroutines need no thread and do not wait.
"""

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from api.context import Context
from api.errors import InvalidRequest
from api.schemas.common import errors

Handler = Callable[[Request], Coroutine[object, object, Response]]


class FairRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., object], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            options["responses"] = errors(429) | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()
        return handler if inspect.iscoroutinefunction(self.endpoint) else _in_turn(handler)


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
