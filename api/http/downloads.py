"""Downloads, which coroutines stream, so that a slow storage or client holds no thread."""

import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import Header
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import NotFound, ServiceError
from api.infra.storage import ObjectMissing
from api.schemas.common import errors

PARTIAL: dict[int | str, dict[str, object]] = {
    206: {"description": "The requested part.", "content": {"application/octet-stream": {}}},
    **errors(416),
}

RangeHeader = Annotated[str | None, Header(alias="range", max_length=64)]
IfRangeHeader = Annotated[str | None, Header(alias="if-range", max_length=128)]


class RangeNotSatisfiable(ServiceError):
    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"
    param = "range"

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, headers={"content-range": f"bytes */{size}"})


def requested_bytes(range_header: str | None, if_range: str | None, size: int) -> range:
    """Return the positions of the bytes to send: the range in the `Range` header, or all `size` bytes.

    A header with another unit or a malformed range is ignored, as RFC 9110 allows. A range with a condition
    (`If-Range`) is ignored, too: the condition compares an ETag or a date, and downloads have neither. Raises
    RangeNotSatisfiable if the header has several ranges, or if the content has no byte in the range.
    """
    header = range_header or ""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header)
    if if_range is None and header.startswith("bytes=") and "," in header:
        raise RangeNotSatisfiable("The header has several ranges: send one request for each", size)
    if match is None or if_range is not None or match[0] == "bytes=-":
        return range(size)
    first, last = match.groups()
    if not first:  # a suffix range: `last` bytes at the end
        part = range(max(0, size - int(last)), size)
    elif last and int(last) < int(first):
        return range(size)  # malformed
    else:
        part = range(int(first), min(size, int(last) + 1) if last else size)
    if not part:
        message = f"The range begins after the last byte: the content has {size:,} bytes"
        raise RangeNotSatisfiable(message, size)
    return part


class Download(StreamingResponse):
    """A streamed attachment. The first chunk is read before the response starts, so that a missing object is a 404."""

    media_type = "application/octet-stream"

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        size: int,
        part: range,
        status_code: int = 200,
    ) -> None:
        """`size`: number of bytes of the whole content. `part`: positions of the bytes in the chunks."""
        self._chunks, self._filename = chunks, filename
        headers = {
            "content-length": str(len(part)),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "x-content-type-options": "nosniff",
            "accept-ranges": "bytes",
        }
        if len(part) < size:
            status_code = 206
            headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
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
