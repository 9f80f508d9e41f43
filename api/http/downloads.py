"""Downloads as streams, read by coroutines so that a slow storage or client holds no thread."""

from collections.abc import AsyncIterator
from urllib.parse import quote

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import NotFound
from api.infra.storage import ObjectMissing


class Download(StreamingResponse):
    """A streamed attachment. The first chunk is read before the response starts, so that a missing object is a 404."""

    media_type = "application/octet-stream"

    def __init__(self, chunks: AsyncIterator[bytes], *, filename: str, size: int, status_code: int = 200) -> None:
        self._chunks, self._filename = chunks, filename
        headers = {
            "content-length": str(size),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "x-content-type-options": "nosniff",
        }
        super().__init__(chunks, status_code, headers)

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
