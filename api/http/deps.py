"""Dependencies of routes.

All are coroutines, because FastAPI runs plain functions in threads, and all threads may be busy.
"""

import re
from typing import Annotated, cast

from fastapi import Depends, Query, Request
from fastapi.dependencies.models import Dependant

from api.context import Caller, Context
from api.errors import InvalidRequest


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def _caller(request: Request) -> Caller:
    return cast(Caller, request.state.caller)


async def _metadata_filter(
    request: Request,
    metadata: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> dict[str, str] | None:
    if metadata in ("null", ""):  # the Node client sends an empty string for null
        return {}
    if metadata is not None:
        raise InvalidRequest("metadata must be null, or given as metadata[key]=value", param="metadata")
    pairs = {name[9:-1]: value for name, value in request.query_params.items() if _METADATA.fullmatch(name)}
    return pairs or None


METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "schema": {
        "type": ["object", "null"],
        "propertyNames": {"pattern": r"^[^\]\"\\]{1,64}$"},
        "additionalProperties": {"type": "string"},
    },
    "description": "`metadata[key]=value`: jobs with that pair. `metadata=null`: jobs without metadata.",
}
"""The parameter `metadata[key]=value` in OpenAPI's terms. FastAPI cannot declare a parameter of this style."""

_METADATA = re.compile(r"metadata\[[^\]\"\\]{1,64}\]")


async def _is_repeated(request: Request) -> bool:
    count = request.headers.get("x-stainless-retry-count", "0")
    return getattr(request.state, "repeated", False) or (count.isdecimal() and int(count[:9]) > 0)


async def only_known_query(request: Request) -> None:
    """Raise InvalidRequest for unknown query parameters, so that a misspelt one is not ignored."""
    if not request.query_params:
        return
    if len(request.query_params.multi_items()) > MAX_QUERY_FIELDS:
        raise InvalidRequest(
            f"The query has more than {MAX_QUERY_FIELDS} parameters", param="query", code="too_many_parameters"
        )
    known = _query_names(request.scope["route"].dependant)
    for name in request.query_params:
        if name not in known and not ("metadata" in known and _METADATA.fullmatch(name)):
            raise InvalidRequest(f"Unknown query parameter: '{name[:64]}'", param=name[:64], code="unknown_parameter")


def _query_names(dependant: Dependant) -> set[str]:
    """Return the names of the query parameters of an endpoint and its dependencies."""
    own = {field.alias for field in dependant.query_params}
    return own.union(*(_query_names(dependency) for dependency in dependant.dependencies))


MAX_QUERY_FIELDS = 64
"""Maximum number of query parameters. No call needs as many, not even one with `metadata[…]` for all 16 pairs of a
job."""

Ctx = Annotated[Context, Depends(_context)]
Who = Annotated[Caller, Depends(_caller)]
MetadataFilter = Annotated[dict[str, str] | None, Depends(_metadata_filter)]
Repeated = Annotated[bool, Depends(_is_repeated)]
"""Whether the request may be a retry. OpenAI's clients mark a retry in a header, and send no Idempotency-Key."""
After = Annotated[str | None, Query(max_length=64, description="The id of the last object of the previous page.")]
