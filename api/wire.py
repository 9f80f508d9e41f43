"""What uvicorn answers by itself, before there is a request for the app: in OpenAI's shape, as all else."""

import http
import json
import secrets
import sys

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import InvalidRequest

log = structlog.get_logger(__name__)


class HttpProtocol(H11Protocol):
    """uvicorn's, whose refusal of what is no HTTP is plain text."""

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled, which knows better than 400 what was wrong."""
        refused = sys.exception()
        hint = refused.error_status_hint if isinstance(refused, h11.RemoteProtocolError) else 400
        error = InvalidRequest(_WORDS.get(hint, msg), code="invalid_http_request")
        request_id, body = "req_" + secrets.token_hex(16), json.dumps(error.body()).encode()
        log.info("not_http", status=hint, request_id=request_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        ]
        reason = http.HTTPStatus(hint).phrase.encode()
        events = (
            h11.Response(status_code=hint, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


_WORDS = {
    400: "What was sent is no HTTP request",
    431: "The request's headers are too large",
    501: "The request has a Transfer-Encoding other than chunked",
}
