"""Streaming parser of multipart bodies. It keeps fields in memory, and passes the file on in chunks.

FastAPI's form parser would write the whole file into the system's temporary folder before any of our code runs.
"""

import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from api.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

STREAMED = re.compile(r"/v1/files|/v1/uploads/[^/]+/parts")
"""Paths whose POST bodies are streamed to storage. The code that receives the stream limits their size."""
MAX_FIELDS = 32
MAX_FIELD_BYTES = 16 * 1024
MAX_HEADER_BYTES = 8 * 1024


@dataclass
class Form:
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


@dataclass(frozen=True)
class _PartBegins:
    name: str
    filename: str | None


_PART_ENDS = None
_Event = _PartBegins | bytes | None


async def read_form(
    request: Request, *, file_field: str, consume: Callable[[AsyncIterator[bytes]], Awaitable[None]]
) -> Form:
    """Read the whole body, and pass the file's chunks to `consume`. The file may come before, between or after the
    fields.

    Raises InvalidRequest if the body is not multipart, or has unexpected or too many parts.
    """
    form, events, parts = Form(), _events(request), 0
    async for event in events:
        assert isinstance(event, _PartBegins), event
        parts += 1
        if parts > MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {MAX_FIELDS} parts")
        if event.name in form.fields:
            raise InvalidRequest(f"'{event.name[:64]}' was sent twice", param=event.name[:64])
        if event.name == file_field:
            if form.filename is not None:
                raise InvalidRequest(f"'{file_field}' was sent twice", param=file_field)
            if event.filename is None:
                raise InvalidRequest(f"'{file_field}' must be a file with a name, not a plain field", param=file_field)
            form.filename = event.filename
            await consume(_part(events))
        elif event.filename is not None:
            raise InvalidRequest(f"unexpected part '{event.name[:64]}' in the form", param=event.name[:64])
        else:
            form.fields[event.name] = await _value(events, event.name)
    return form


async def _part(events: AsyncIterator[_Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if event is _PART_ENDS:
            return
        assert isinstance(event, bytes), event
        yield event
    raise InvalidRequest("the body ended in the middle of the form")


async def _value(events: AsyncIterator[_Event], name: str) -> str:
    value = b""
    async for chunk in _part(events):
        value += chunk
        if len(value) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"'{name}' is longer than {MAX_FIELD_BYTES} bytes", param=name)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"'{name}' is not UTF-8", param=name) from error


async def _events(request: Request) -> AsyncIterator[_Event]:
    """Yield the parser's events, one chunk of the body at a time."""
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("the body is not multipart/form-data: send it like an HTML form with a file")
    collected = _Collector()
    try:
        parser = MultipartParser(options[b"boundary"], collected.callbacks())
        async for chunk in request.stream():
            parser.write(chunk)
            while collected.events:
                yield collected.events.popleft()
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the multipart body is malformed: check its boundary and its end") from error
    while collected.events:
        yield collected.events.popleft()


class _Collector:
    """Collects events from the parser's callbacks."""

    def __init__(self) -> None:
        self.events: deque[_Event] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": lambda data, start, end: self.events.append(data[start:end]),
            "on_part_end": lambda: self.events.append(_PART_ENDS),
        }

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        if len(self._value) > MAX_HEADER_BYTES:
            raise InvalidRequest("a header of a part of the form is too long")

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name, filename = options.get(b"name"), options.get(b"filename")
        if name is None:
            raise InvalidRequest("a part of the form has no name")
        self.events.append(
            _PartBegins(name.decode(errors="replace"), None if filename is None else filename.decode(errors="replace"))
        )
