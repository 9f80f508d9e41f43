"""What /openapi.json says of every call beyond its own fields: who may call, with which headers, and each error.

A route names in `responses` only those errors that are its own (`api.schemas.common.errors`); what all calls of a kind
have in common is said here, once. Neither 500 is told, which only a fault of ours gives (a sampler's is told), nor 405
and the 404 of unknown addresses, which are no answers of any call.
"""

from typing import Any

from api.http.middleware import PUBLIC
from api.infra.multipart import STREAMED
from api.schemas.stored import with_stored_schemas

Operation = dict[str, Any]

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorObject"}}}

_MEANINGS = {
    "400": "The request is wrong: `param` names the field, `message` says what to do.",
    "401": "No API key, or one that is unknown here, revoked or expired.",
    "403": "The key may not do that.",
    "404": "There is no such object in this project.",
    "408": "The body did not come in time: ask again.",
    "409": "The first request with this Idempotency-Key is still being worked on: ask again.",
    "413": "The body is larger than this server takes.",
    "429": "The project has asked too often, or holds as much as it may: `code` says which.",
    "500": "The sampler failed.",
    "503": "A part that this needs cannot be reached at the moment: ask again.",
    "507": "A disk of the server is full: its operator has to make room.",
}
_WAITS = ("409", "429", "503")
"""Statuses whose answers may say in `retry-after` when to ask again."""

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "The same request under it gets the first answer, for 24 hours.",
}

_HEADERS = {
    "x-request-id": {"description": "Of this request, in the server's log.", "schema": {"type": "string"}},
    "retry-after": {"description": "Seconds.", "schema": {"type": "integer"}},
    "idempotent-replayed": {
        "description": "There, and `true`, where this is the first answer once more.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with all of that."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "`sk-attune-…`"}}
    components["headers"] = _HEADERS
    components["responses"] = {f"Error{status}": _error(status) for status in _MEANINGS}
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's, which nothing here answers with
        components.get("schemas", {}).pop(name, None)
    components["schemas"] = with_stored_schemas(components.get("schemas", {}))
    document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return document


def _complete(path: str, method: str, operation: Operation) -> None:
    if path in PUBLIC:
        operation["security"] = []
    if _may_be_repeated(method):
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    answers = operation["responses"]
    answers.pop("422", None)
    own = {status for status in answers if status in _MEANINGS}
    for status in own | _common_errors(path, method, operation):
        answers[status] = {"$ref": f"#/components/responses/Error{status}"}
    for status, answer in answers.items():
        if status not in _MEANINGS:
            replayed = ["idempotent-replayed"] if _may_be_repeated(method) else []
            answer["headers"] = _named_headers("x-request-id", *replayed)
    operation["responses"] = dict(sorted(answers.items()))


def _may_be_repeated(method: str) -> bool:
    """Whether it takes an Idempotency-Key."""
    return method == "post"


def _common_errors(path: str, method: str, operation: Operation) -> set[str]:
    statuses = {"400"}  # an unknown query parameter, at the least
    if path not in PUBLIC:
        statuses |= {"401", "429", "503"}
        if method != "get":
            statuses.add("403")
    if "{" in path:
        statuses.add("404")
    if method == "post":
        statuses.add("413")
    if "requestBody" in operation and not STREAMED.fullmatch(path):
        statuses.add("408")
    if _may_be_repeated(method):
        statuses.add("409")
    return statuses


def _error(status: str) -> dict[str, Any]:
    extra = [*(["retry-after"] if status in _WAITS else []), *(["idempotent-replayed"] if status < "409" else [])]
    return {"description": _MEANINGS[status], "content": _ERROR, "headers": _named_headers("x-request-id", *extra)}


def _named_headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
