"""A digest of a multipart form that does not depend on the boundary. Retries of a form differ only in the boundary."""

import hashlib

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

MARK = b"\0"
"""The byte that replaces the boundary. No boundary contains it."""


class FormDigest:
    """Computes the SHA-256 of a form while it is received, with each boundary replaced by MARK.

    It holds fewer bytes in memory than one boundary has.
    """

    def __init__(self, content_type: str, *about: bytes) -> None:
        """`about`: other parts of the request that the digest covers, such as the path."""
        self._boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        self._sha256 = hashlib.sha256(MARK.join((*about, b"")))
        self._held = b""
        self.bytes_read = 0
        self.complete = False
        """Whether the whole body has passed; until then the digest covers its beginning only."""

    def watch(self, receive: Receive) -> Receive:
        """Return a receive function that adds each message to the digest."""

        async def receive_watched() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not self.complete:
                self._add(message.get("body", b""))
                self.complete = not message.get("more_body", False)
            return message

        return receive_watched

    async def drain(self, receive: Receive, limit_bytes: int) -> None:
        """Read the rest of the body into the digest. Stop early once the body is longer than `limit_bytes`."""
        receive_watched = self.watch(receive)
        while not self.complete and self.bytes_read <= limit_bytes:
            if (await receive_watched())["type"] == "http.disconnect":
                return

    def hexdigest(self) -> str:
        digest = self._sha256.copy()
        digest.update(self._held)
        return digest.hexdigest()

    def _add(self, chunk: bytes) -> None:
        self.bytes_read += len(chunk)
        data = self._held + chunk
        if self._boundary:
            data = data.replace(self._boundary, MARK)
        length = max(0, len(data) - max(0, len(self._boundary) - 1))  # the rest may be the start of a boundary
        self._sha256.update(data[:length])
        self._held = data[length:]
