"""Handlers that return every error in OpenAI's shape. Validation errors have status 400, not 422."""

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.errors import InsufficientStorage, InvalidRequest, ServiceError, Unavailable
from api.http.suggestions import unknown_field
from api.infra.storage import StorageFull, StorageUnavailable
from api.records.pages import UnknownCursor

log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(StorageUnavailable, _storage_unavailable)
    app.add_exception_handler(StorageFull, _storage_full)
    app.add_exception_handler(UnknownCursor, _unknown_cursor)


def _response(error: ServiceError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError), error
    return _response(error)


async def _storage_unavailable(request: Request, error: Exception) -> JSONResponse:
    return _response(
        Unavailable("The object storage cannot be reached at the moment: retry in 5 s", headers={"retry-after": "5"})
    )


async def _storage_full(request: Request, error: Exception) -> JSONResponse:
    log.error("storage_full", error=str(error))
    return _response(InsufficientStorage("The object storage of this server is full"))


async def _unknown_cursor(request: Request, error: Exception) -> JSONResponse:
    return _response(
        InvalidRequest(
            "'after' names no object of this list, and none that was deleted from it in the last 30 days", param="after"
        )
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), error
    path = request.url.path
    hint = _ALTERNATIVES.get(path, "See /openapi.json for the API.")
    message = {
        404: f"Unknown request URL: {request.method} {path}. {hint}",
        405: f"{request.method} is not allowed on {path}. Allowed: {', '.join(_allowed(request))}",
    }.get(error.status_code, str(error.detail))
    kind = InvalidRequest if error.status_code < 500 else ServiceError
    body = kind(message, code=_CODES.get(error.status_code)).body()
    headers = {"allow": ", ".join(_allowed(request))} if error.status_code == 405 else error.headers
    return JSONResponse(body, status_code=error.status_code, headers=headers)


def _allowed(request: Request) -> list[str]:
    """Return the methods of all routes at the address; the framework reports only the methods of the first route."""
    routes = request.app.router.routes
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "POST")}
    return [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]


_ALTERNATIVES = {
    "/v1/responses": "Use /v1/chat/completions: set your client to the Chat Completions API.",
    "/v1/fine-tunes": "Fine-tuning is at /v1/fine_tuning/jobs, as in OpenAI's API since 2023.",
}
"""Paths of OpenAI's API that Attune does not have, each with a hint at the path to use instead."""

_CODES = {404: "unknown_url", 405: "method_not_allowed"}


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), error
    if isinstance(error.body, bytes):  # FastAPI parses only bodies whose content type is JSON
        return _response(
            InvalidRequest(
                "Send the body as JSON, with the header `Content-Type: application/json`", code="invalid_json"
            )
        )
    return _response(as_invalid_request(error.errors(), error.body, _body_model(request)))


def _body_model(request: Request) -> type[BaseModel] | None:
    """Return the model of the request's body; None if its route has none."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = None if field is None else field.field_info.annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def as_invalid_request(
    errors: Sequence[ErrorDetails], body: object, model: type[BaseModel] | None = None
) -> InvalidRequest:
    """Return the error for the caller. It describes the problem with the first wrong field, and lists the others.

    `model`: the pydantic model of the body. One of its fields may be suggested in place of an unknown field.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        place = f" at character {first['loc'][-1] + 1}" if isinstance(first["loc"][-1], int) else ""
        problem = f"We could not parse the JSON body of your request: {first['ctx']['error']}{place}"
        return InvalidRequest(problem, code="invalid_json")
    if first["loc"] == ("body",) and first["type"] in NO_OBJECT:
        return InvalidRequest("This request needs a JSON object as its body", code="invalid_json")
    param = _param(first, body)
    others = dict.fromkeys(_param(error, body) for error in errors[1:])
    also = [other for other in others if other and not f"{param}.".startswith(f"{other}.")]
    named = ", ".join(also[:MAX_OTHER_FIELDS]) + (", …" if len(also) > MAX_OTHER_FIELDS else "")
    if first["type"] == "extra_forbidden" and model is not None:
        problem = unknown_field(model, param, body)
    else:
        problem = _problem(first)
    message = problem + (f" (also wrong: {named})" if also else "")
    return InvalidRequest(f"{param}: {message}" if param else message, param=param or None, code="invalid_value")


MAX_OTHER_FIELDS = 5
NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")
"""pydantic's errors for a body that is no object, or that the request lacks."""


def _param(error: ErrorDetails, body: object) -> str:
    place, *path = error["loc"]
    return _field(error, body) if place == "body" else ".".join(str(part) for part in path)


def _problem(error: ErrorDetails) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "Unknown field: it is misspelt or not supported"
        case "union_tag_not_found":
            return "Field required: it selects the kind of object"
        case "union_tag_invalid":
            return f"Input should be {error['ctx']['expected_tags']}, not {error['ctx']['tag'][:64]!r}"
    return str(error["msg"].removeprefix("Value error, "))


_TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")


def _field(error: ErrorDetails, body: Any) -> str:
    """Return the path of the wrong field: pydantic's location without the tags of unions, which are not in the body."""
    _, *path = error["loc"]
    if error["type"] in _TAG_ERRORS:
        # pydantic reports the object; the wrong field is its `type`.
        path.append(error["ctx"]["discriminator"].strip("'"))
    missing = error["type"] in ("missing", "union_tag_not_found")
    names, node = [], body
    for index, part in enumerate(path):
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            # The body does not have this part: it is the tag of a union, or, at the end, the missing field.
            if not missing or index < len(path) - 1 or not isinstance(node, dict):
                continue
        names.append(str(part))
    return ".".join(names)
