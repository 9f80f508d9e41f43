"""Bytes on their way out."""

from collections.abc import Iterator
from itertools import chain
from urllib.parse import quote

from fastapi.responses import StreamingResponse

from api.errors import NotFound
from api.storage import ObjectMissing


class Download(StreamingResponse):
    media_type = "application/octet-stream"


def download(chunks: Iterator[bytes], *, filename: str, size: int) -> Download:
    """A streamed attachment. The first chunk is read before the answer begins, so that a missing object is a 404."""
    try:
        first = next(chunks, b"")
    except ObjectMissing as error:
        raise NotFound(f"The content of {filename} is no longer stored") from error
    return Download(
        chain([first], chunks),
        headers={
            "content-length": str(size),
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "x-content-type-options": "nosniff",
        },
    )
