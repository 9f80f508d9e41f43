"""The parts of /openapi.json that all calls share: authentication, headers and common errors.

A route lists in `responses` only its own errors (`api.schemas.common.errors`). The document has status 500
only for completions. It omits 405 and the 404 of unknown addresses, because these belong to no call.
"""

from api.http.authentication import PUBLIC, READS
from api.http.idempotency import UNKEPT
from api.schemas.stored import with_stored_schemas
from api.spec.fields import JsonObject

Operation = JsonObject

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorObject"}}}

_DESCRIPTIONS = {
    "400": "The request is invalid: `param` names the field, `message` describes the problem.",
    "401": "The API key is missing, unknown, revoked or expired.",
    "403": "The key does not permit this call.",
    "404": "The project has no such object.",
    "408": "The body did not arrive in time: retry.",
    "409": "The first request with this Idempotency-Key is still running: retry.",
    "413": "The body is larger than the server's limit.",
    "429": "The project exceeds its rate of requests or another limit, which `code` names.",
    "500": "The sampler failed.",
    "503": "A service that the call needs is unavailable: retry.",
    "507": "A disk of the server is full: the operator has to free space.",
}
_RETRIED = ("409", "429", "503")
"""Statuses of responses that may have a `retry-after` header."""

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    "description": "A repeated request with the same key gets the response of the one that succeeded, for 24 hours.",
}

_HEADERS = {
    "x-request-id": {"description": "The id of the request in the server's log.", "schema": {"type": "string"}},
    "retry-after": {"description": "Seconds to wait before a retry.", "schema": {"type": "integer"}},
    "idempotent-replayed": {
        "description": "`true` if this is the kept response of an earlier request.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def complete(document: JsonObject) -> JsonObject:
    """Return FastAPI's document with the shared parts added."""
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "`sk-attune-…`"}}
    components["headers"] = _HEADERS
    components["responses"] = {f"Error{status}": _error(status) for status in _DESCRIPTIONS}
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which no call returns
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
    if _may_be_repeated(path, method):
        operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
    responses = operation["responses"]
    responses.pop("422", None)
    own = {status for status in responses if status in _DESCRIPTIONS}
    for status in own | _common_errors(path, method, operation):
        responses[status] = {"$ref": f"#/components/responses/Error{status}"}
    for status, response in responses.items():
        if status not in _DESCRIPTIONS:
            replayed = ["idempotent-replayed"] if _may_be_repeated(path, method) else []
            response["headers"] = _named_headers("x-request-id", *replayed)
    operation["responses"] = dict(sorted(responses.items()))


def _may_be_repeated(path: str, method: str) -> bool:
    """Return whether the operation accepts an Idempotency-Key."""
    return method == "post" and path not in UNKEPT


def _common_errors(path: str, method: str, operation: Operation) -> set[str]:
    statuses = {"400"}  # at least for an unknown query parameter
    if path not in PUBLIC:
        statuses |= {"401", "429", "503"}
        if method != "get" and path not in READS:
            statuses.add("403")
    if "{" in path:
        statuses.add("404")
    if method == "post":
        statuses.add("413")
    if "requestBody" in operation:
        statuses.add("408")
    if _may_be_repeated(path, method):
        statuses.add("409")
    return statuses


def _error(status: str) -> dict[str, object]:
    extra = ["retry-after"] if status in _RETRIED else []
    return {"description": _DESCRIPTIONS[status], "content": _ERROR, "headers": _named_headers("x-request-id", *extra)}


def _named_headers(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
