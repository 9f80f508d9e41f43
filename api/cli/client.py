"""A thin client of the HTTP API. Every failure is a `CommandError`."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import httpx

from api.cli.errors import CommandError, ExitCode, RequestRefused

TIMEOUT = httpx.Timeout(60, connect=5, write=600)
GENERATION_TIMEOUT = httpx.Timeout(600, connect=5)
"""Timeouts of a request to a model, which the server may have to load first."""
PAGE = 100
LOOPBACK = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"}  # noqa: S104 (compared, not listened on)
"""Hosts of this machine. The last two are those of a server that listens on all addresses."""

Document = dict[str, Any]


def json_lines(response: httpx.Response) -> Iterator[bytes]:
    """Yield the lines of a body, without their line feeds.

    httpx's own lines end also with characters that a text in JSON may contain, such as U+2028.
    """
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def connection(base_url: str) -> dict[str, Any]:
    """Return httpx's options for connections to the server: no proxy on loopback, and without TLS none of the public
    certificates, whose reading takes 30 ms."""
    url = httpx.URL(base_url)
    if url.host not in LOOPBACK:
        return {}
    return {"trust_env": False} | ({} if url.scheme == "https" else {"verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)})


class Client:
    def __init__(self, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self.date: str | None = None
        """The `Date` header of the last response, by the server's clock."""
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=TIMEOUT,
            **connection(base_url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: object) -> Document:
        return self._json("GET", path, params={k: v for k, v in params.items() if v is not None})

    def session(self) -> Document:
        """Return the project and the key of this client's requests."""
        return self.get(f"{self.base_url.removesuffix('/v1')}/session")

    def post(
        self,
        path: str,
        body: Document | None = None,
        *,
        timeout: httpx.Timeout = TIMEOUT,
        idempotency_key: str | None = None,
    ) -> Document:
        request = _json_body(body or {})
        if idempotency_key is not None:
            request["headers"]["idempotency-key"] = idempotency_key
        return self._json("POST", path, timeout=timeout, **request)

    def delete(self, path: str) -> Document:
        return self._json("DELETE", path)

    def upload(self, file: IO[bytes], name: str, purpose: str) -> Document:
        return self._json("POST", "/files", data={"purpose": purpose}, files={"file": (name, file)})

    def upload_part(self, upload_path: str, data: bytes) -> Document:
        return self._json("POST", f"{upload_path}/parts", files={"data": ("part", data)})

    @contextmanager
    def stream_bytes(self, path: str, *, start: int = 0) -> Iterator[httpx.Response]:
        """Yield the response to a GET before its body is read.

        `start`: first byte that is requested. The server may ignore it; the status is then 200 instead of 206.
        """
        headers = {"range": f"bytes={start}-"} if start else {}
        with self._as_command_errors(), self._http.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                response.read()
            _raise_for_status(response)
            yield response

    def stream_events(self, path: str, body: Document) -> Iterator[Document]:
        """Yield the server-sent events of a POST as they arrive."""
        with (
            self._as_command_errors(),
            self._http.stream("POST", path, timeout=GENERATION_TIMEOUT, **_json_body(body)) as response,
        ):
            if not response.is_success:
                response.read()
            _raise_for_status(response)
            for line in json_lines(response):
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    yield json.loads(line.removeprefix(b"data: "))

    def listed(self, path: str, *, limit: int, after: str | None = None, **query: object) -> Document:
        """Return a list of up to `limit` objects. Its `has_more` is true if the server has more of them."""
        data: list[Document] = []
        has_more = True
        while has_more and len(data) < limit:
            start = data[-1]["id"] if data else after
            page = self.get(path, limit=min(PAGE, limit - len(data)), after=start, **query)
            data += page["data"]
            has_more = bool(page.get("has_more")) and bool(page["data"])
        return {"object": "list", "data": data, "has_more": has_more}

    def pages(self, path: str) -> Iterator[Document]:
        """Yield the objects of a list, fetching page after page."""
        after = None
        while True:
            page = self.get(path, limit=PAGE, after=after)
            yield from page["data"]
            if not page["data"] or not page.get("has_more"):
                return
            after = page["data"][-1]["id"]

    def _json(self, method: str, path: str, **request: Any) -> Document:
        with self._as_command_errors():
            response = self._http.request(method, path, **request)
            self.date = response.headers.get("date")
            _raise_for_status(response)
            try:
                document = response.json()
            except ValueError:
                document = None
        if not isinstance(document, dict):
            raise CommandError(
                ExitCode.UNAVAILABLE, f"{self.base_url} does not respond like an Attune server", "is the address right?"
            )
        return document

    @contextmanager
    def _as_command_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            remedy = "`attune doctor` checks the server; then repeat the command."
            raise CommandError(ExitCode.UNAVAILABLE, f"{self.base_url} did not respond in time", remedy) from None
        except httpx.TransportError:
            local = httpx.URL(self.base_url).host in LOOPBACK
            remedy = (
                "start it with `attune up`, or in production with `attune api`"
                if local
                else "is the server running there?"
            )
            raise CommandError(ExitCode.UNAVAILABLE, f"cannot reach {self.base_url}", remedy) from None


def _json_body(body: Document) -> dict[str, Any]:
    """Return httpx's options for a body. Raise CommandError if JSON cannot hold it."""
    try:
        content = json.dumps(body, allow_nan=False).encode()
    except ValueError:
        raise CommandError(ExitCode.REFUSED, "JSON has no NaN and no infinite numbers: give another value.") from None
    return {"content": content, "headers": {"content-type": "application/json"}}


def segment(identifier: str) -> str:
    """Return an id quoted as one segment of a URL's path, because names of models have colons and slashes."""
    return quote(identifier, safe="")


def open_input(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandError(ExitCode.REFUSED, f"cannot read {path}: {error.strerror}.") from None


def _raise_for_status(response: httpx.Response) -> None:
    if response.is_success:
        return
    status = response.status_code
    if status in {401, 403}:
        code = ExitCode.NOT_AUTHORIZED
    elif status == 429 or status >= 500:
        code = ExitCode.UNAVAILABLE
    else:
        code = ExitCode.REFUSED
    try:
        error = response.json()["error"]
        message, param, reason = str(error["message"]), error.get("param"), error.get("code")
    except (ValueError, KeyError, TypeError):
        raise CommandError(
            code,
            _name_request(f"the server responded with {status} {response.reason_phrase}", response),
            "the response is not Attune's. Is it running behind this address? A proxy may have refused the request.",
        ) from None
    raise RequestRefused(code, _name_request(name_field(message, param), response), reason, status)


def _name_request(message: str, response: httpx.Response) -> str:
    """Return the message of a server error with the id by which the operator finds the request in the server's log."""
    request_id = response.headers.get("x-request-id")
    if response.status_code < 500 or request_id is None or request_id in message:
        return message
    return f"{message} (request: {request_id})"


def name_field(message: str, param: str | None) -> str:
    """Return the server's message. The name of the field is appended if the message does not contain it."""
    return f"{message} (field: {param})" if param and param not in message else message
