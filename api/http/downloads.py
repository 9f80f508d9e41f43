"""Downloads as streams, read by coroutines so that a slow storage or client holds no thread."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import NotFound
from api.infra.storage import ObjectMissing

PARTIAL: dict[int | str, dict[str, object]] = {
    206: {"description": "The rest of the file.", "content": {"application/octet-stream": {}}}
}


def first_byte(range_header: str | None, size: int) -> int:
    """Return N of `bytes=N-`, or 0 for a range of another form, which HTTP allows a server to ignore."""
    match = re.fullmatch(r"bytes=(\d{1,18})-", range_header or "")
    start = int(match[1]) if match else 0
    return start if start < size else 0


class Download(StreamingResponse):
    """A streamed attachment. The first chunk is read before the response starts, so that a missing object is a 404."""

    media_type = "application/octet-stream"

    def __init__(
        self, chunks: AsyncIterator[bytes], *, filename: str, size: int, start: int = 0, status_code: int = 200
    ) -> None:
        """`size`: bytes of the whole object; `start`: the byte with which the chunks begin."""
        self._chunks, self._filename = chunks, filename
        headers = {
            "content-length": str(size - start),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "x-content-type-options": "nosniff",
        }
        if start:
            headers["content-range"] = f"bytes {start}-{size - 1}/{size}"
        super().__init__(chunks, 206 if start else status_code, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self._chunks, b"")
        except ObjectMissing as error:
            raise NotFound(f"The content of {self._filename} is no longer stored") from error
        self.body_iterator = _chain(first, self._chunks)
        await super().__call__(scope, receive, send)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
