"""A client of the source, the server that jobs are imported from. It reads and asks questions; it has no way to change
or delete anything.

The key comes from `OPENAI_API_KEY` and is held in memory only. Messages of the source are shown and stored without it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx

from api.cli.client import GENERATION_TIMEOUT, TIMEOUT, Document, connection
from api.cli.connect import sendable_key, with_version
from api.cli.console import format_duration, print_note
from api.cli.errors import CommandError, ExitCode
from api.cli.imports.waits import Waits

OPENAI = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"
SCOPES = {"openai-organization": "OPENAI_ORG_ID", "openai-project": "OPENAI_PROJECT_ID"}
"""Headers that choose among the organizations and projects of a key, and the variables of OpenAI's clients for them."""

PAGE = 100
MAX_FAILURES = 6
"""Maximum number of attempts of a request that fails with a 5xx status or without a response."""
MAX_ATTEMPTS = 200
"""Maximum number of all attempts of a request, including those that the rate limit refuses."""
MAX_WAIT_S = 900.0
"""Maximum number of seconds for which one request waits in all, for example because of rate limits."""
MAX_BACKOFF_S = 8.0
TEMPORARY = {408, 409, 429}
MISSING_SCOPE = "insufficient permissions"


class NotAvailable(CommandError):
    """The source refuses an object: it is deleted or expired, or the key may not read it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(ExitCode.REFUSED, message)
        self.status = status

    @property
    def is_gone(self) -> bool:
        return self.status in {404, 410}


def open_source(url: str | None) -> "Source":
    """Return a client of the server at `url`, by default OpenAI's. Raise CommandError without a usable key."""
    key = sendable_key(os.environ.get(KEY, ""), KEY)
    if not key:
        raise CommandError(ExitCode.NOT_AUTHORIZED, f"no key for the source: set {KEY} in the environment.")
    return Source(with_version(url or OPENAI), key)


class Source:
    def __init__(self, base_url: str, key: str, *, key_source: str = KEY, waits: Waits | None = None) -> None:
        self.base_url = base_url
        self.waits = waits or Waits()
        self._key, self._key_source = key, key_source
        headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity"}  # so that a range counts file bytes
        if key_source == KEY:
            headers |= {name: os.environ[variable] for name, variable in SCOPES.items() if os.environ.get(variable)}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=TIMEOUT, **connection(base_url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def is_openai(self) -> bool:
        return httpx.URL(self.base_url).host == httpx.URL(OPENAI).host

    def get(self, path: str, **params: object) -> Document:
        """Return the object at the path. Raise NotAvailable if the source refuses it, CommandError if the source
        fails."""
        return self._document(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def ask(self, path: str, body: Document, *, idempotency_key: str) -> Document:
        """Return a model's response. Raise NotAvailable if the source refuses the request, CommandError if the source
        fails."""
        headers = {"idempotency-key": idempotency_key}
        return self._document(self._send("POST", path, json=body, headers=headers, timeout=GENERATION_TIMEOUT))

    def pages(self, path: str, *, after: str | None = None) -> Iterator[list[Document]]:
        """Yield the pages of a list, from the page after the object `after`. Raise NotAvailable if the source refuses
        the list, CommandError if the source fails."""
        while True:
            page = self.get(path, limit=PAGE, after=after)
            objects: list[Document] = page.get("data") or []
            if objects:
                yield objects
            if not objects or not page.get("has_more"):
                return
            after = str(objects[-1]["id"])

    def listed(self, path: str) -> list[Document]:
        return [each for page in self.pages(path) for each in page]

    @contextmanager
    def download(self, path: str, *, start: int = 0) -> Iterator[httpx.Response]:
        """Yield the response to a GET before its body is read. The source may ignore `start` (status 200, not 206).

        Raise NotAvailable if the source refuses the object, and CommandError if the source fails. Reading the body may
        raise httpx.TransportError.
        """
        response = self._send("GET", path, headers={"range": f"bytes={start}-"} if start else {}, stream=True)
        try:
            yield response
        finally:
            response.close()

    def redacted(self, message: object) -> str:
        return str(message).replace(self._key, "…")

    def _send(self, method: str, path: str, *, stream: bool = False, **request: Any) -> httpx.Response:
        """Return a successful response, repeating the request after temporary failures."""
        waited_s, attempts, failures = 0.0, 0, 0
        while True:
            self.waits.await_silence_end()
            self.waits.raise_if_stopped()
            response = self._attempt(method, path, stream, request)
            if response is not None and response.is_success:
                return response
            if response is not None and not _is_temporary(response):
                raise self._refusal(response)
            self.waits.raise_if_stopped()
            attempts += 1
            failures += response is None or response.status_code != 429
            delay_s = _delay_s(response, attempts)
            enough = failures >= MAX_FAILURES or attempts >= MAX_ATTEMPTS
            if enough or waited_s + delay_s > MAX_WAIT_S:
                raise CommandError(ExitCode.UNAVAILABLE, f"{self._outage(response)} Repeat the command later.")
            if delay_s >= 1:
                print_note(f"{self._outage(response)} The next attempt is in {format_duration(delay_s)}.")
            if response is not None and response.status_code == 429:
                self.waits.begin_silence(delay_s)
            else:
                self.waits.sleep(delay_s)
            waited_s += delay_s

    def _attempt(self, method: str, path: str, stream: bool, request: dict[str, Any]) -> httpx.Response | None:
        """Return the response, or None if there is none. The body of a stream is read only if the request fails."""
        try:
            response = self._http.send(self._http.build_request(method, path, **request), stream=stream)
            if not response.is_success:
                response.read()
        except httpx.TransportError:
            return None
        return response

    def _refusal(self, response: httpx.Response) -> Exception:
        status, (message, code) = response.status_code, _error_of(response)
        if status == 401 and MISSING_SCOPE in message:  # OpenAI's response to a restricted key
            return NotAvailable(403, self.redacted(message))
        if status == 401:  # the message is replaced, because it may quote the key
            return CommandError(
                ExitCode.NOT_AUTHORIZED, f"{self.base_url} does not accept the key of {self._key_source}."
            )
        if status == 429:
            return CommandError(ExitCode.UNAVAILABLE, f"{self.base_url}: {self.redacted(message)} ({code})")
        return NotAvailable(status, self.redacted(message))

    def _outage(self, response: httpx.Response | None) -> str:
        if response is None:
            return f"{self.base_url} cannot be reached."
        if response.status_code == 429:
            return f"{self.base_url} limits the rate of requests."
        return f"{self.base_url} responded with {response.status_code}."

    def _document(self, response: httpx.Response) -> Document:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise CommandError(
                ExitCode.UNAVAILABLE, f"{self.base_url} does not speak OpenAI's API: is the address right?"
            )
        return document


def _is_temporary(response: httpx.Response) -> bool:
    if response.status_code == 429 and _error_of(response)[1] == "insufficient_quota":
        return False
    return response.status_code in TEMPORARY or response.status_code >= 500


def _error_of(response: httpx.Response) -> tuple[str, str | None]:
    """Return the message and the code of an error."""
    try:
        error = response.json()["error"]
        return str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.reason_phrase}", None


def _delay_s(response: httpx.Response | None, attempts: int) -> float:
    """Return the seconds until the next attempt: the time that the source asks for, or else a time that doubles with
    each attempt."""
    headers = httpx.Headers() if response is None else response.headers
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" in headers:
            return max(0.0, _retry_after_s(headers["retry-after"]))
    except ValueError:  # neither a number nor a date
        pass
    return min(MAX_BACKOFF_S, 0.25 * 2.0 ** min(attempts, 10))


def _retry_after_s(value: str) -> float:
    """Return the seconds of a Retry-After header: a number, or a date. Raise ValueError for any other value."""
    try:
        return float(value)
    except ValueError:
        at = parsedate_to_datetime(value)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
