"""What a form says, whatever boundary its sender drew: two attempts of one request differ in nothing else."""

import hashlib

from python_multipart.multipart import parse_options_header
from starlette.types import Message, Receive

MARK = b"\0"
"""Stands for the boundary, which cannot hold it."""


class FormDigest:
    """SHA-256 over a form's bytes as they pass, the boundary replaced. Holds back less than one boundary."""

    def __init__(self, content_type: str, *about: bytes) -> None:
        """`about`: what else belongs to the request."""
        self._boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        self._sha256 = hashlib.sha256(MARK.join((*about, b"")))
        self._held = b""
        self.bytes_read = 0
        self.complete = False
        """Whether the whole body has passed: else the digest is that of its beginning."""

    def watch(self, receive: Receive) -> Receive:
        """The same messages, each of which is counted in."""

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not self.complete:
                self._add(message.get("body", b""))
                self.complete = not message.get("more_body", False)
            return message

        return watched

    async def drain(self, receive: Receive, limit_bytes: int) -> None:
        """Read what is left of the body, for its digest alone; no further than the limit."""
        watched = self.watch(receive)
        while not self.complete and self.bytes_read <= limit_bytes:
            if (await watched())["type"] == "http.disconnect":
                return

    def hexdigest(self) -> str:
        whole = self._sha256.copy()
        whole.update(self._held)
        return whole.hexdigest()

    def _add(self, chunk: bytes) -> None:
        self.bytes_read += len(chunk)
        data = self._held + chunk
        if self._boundary:
            data = data.replace(self._boundary, MARK)
        whole = max(0, len(data) - max(0, len(self._boundary) - 1))  # the rest may be a boundary's beginning
        self._sha256.update(data[:whole])
        self._held = data[whole:]
