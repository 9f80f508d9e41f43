"""What routes are given."""

from typing import Annotated, cast

from fastapi import Depends, Query, Request

from api.context import Caller, Context


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


def _caller(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


Ctx = Annotated[Context, Depends(_context)]
Who = Annotated[Caller, Depends(_caller)]
After = Annotated[str | None, Query(max_length=64, description="The id of the last object of the page before.")]
