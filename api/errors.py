"""Base classes of the errors that clients can get. Each has an HTTP status, a type, a code and a parameter.

The body of the response has OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, always with all four
fields. A service defines its own errors as short subclasses.
"""

from typing import ClassVar

DO_NOT_RETRY = {"x-should-retry": "false"}
"""Headers that keep OpenAI's clients from retrying a request that would fail again."""


class ServiceError(Exception):
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    param: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param if param is not None else self.param
        self.code = code if code is not None else self.code
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(ServiceError):
    status = 400
    type = "invalid_request_error"


class Unauthorized(ServiceError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ServiceError):
    status = 403
    type = "invalid_request_error"
    code = "insufficient_permissions"


class NotFound(ServiceError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class RequestTimeout(ServiceError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class TooLarge(ServiceError):
    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class TooManyRequests(ServiceError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Unavailable(ServiceError):
    status = 503
    type = "server_error"
    code = "unavailable"


class InsufficientStorage(ServiceError):
    """A disk of the server is full. A header keeps OpenAI's clients from retrying at once, which would fail again."""

    status = 507
    type = "server_error"
    code = "insufficient_storage"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the operator has to free space", headers=DO_NOT_RETRY)
