"""The errors a caller can meet: each carries its status, type, code and the field it is about.

The HTTP shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`, all four always there. A domain error
is a short subclass beside the service that raises it.
"""

from typing import Any, ClassVar


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

    def body(self) -> dict[str, Any]:
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
    """There is no room on a disk of ours. To send the same bytes again at once, as OpenAI's clients do after any error
    of a server, would be in vain."""

    status = 507
    type = "server_error"
    code = "insufficient_storage"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: its operator has to make room", headers={"x-should-retry": "false"})
