"""Requests that are answered by a thread, in turns by project.

The threads are few, and a request holds one for as long as the database or the storage makes it wait. No project gets
all of them. Routes that are coroutines hold none, and wait for nothing here.
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

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class FairRoute(APIRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
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
            await request.body()  # at the client's pace, and so before the turn
        except ClientDisconnect:
            raise InvalidRequest("The connection was lost before the whole body had come") from None
        async with context.requests.turn(request.state.caller.project_id):
            return await handler(request)

    return waiting
