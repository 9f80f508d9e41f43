"""A vLLM server that answers requests in place of the sampler's own child (`sample_vllm_url`).

The server has the base models, and loads adapters when they are first used (vllm_adapters.py). Requests are sent in a
thread with an event loop of its own, so that a cancelled one ends at once, with its connection; the server then frees
its place.
"""

import queue
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import structlog
from anyio.from_thread import start_blocking_portal

from api.settings import Settings
from api.spec.fields import JsonObject
from api.spec.sampling import ModelFiles, SamplerJob
from worker.shared.reports import (
    CancelledReport,
    CompleteReport,
    FailedReport,
    RefusedReport,
    SamplerReport,
)
from worker.supervisor.sampling_child import POLL_S, ChildLost
from worker.supervisor.vllm_adapters import ADMIN_S, NotLoaded, VllmAdapters, is_loadable
from worker.supervisor.vllm_stream import AnswerReader, Served, Unreadable, path_and_body, tokenize_body

log = structlog.get_logger(__name__)

CONNECT_S = 5.0
ALIVE_S = 2.0
"""Seconds in which a server that is alive lists its models."""
MAX_ERROR_BYTES = 64 << 10
MAX_LINE_BYTES = 4 << 20
"""Size limit of one event of an answer."""
CHECK_S = 3.0
"""Seconds for which the server counts as alive after it has answered."""
GREEDY = 1e-5
"""Temperature below which vLLM gives one answer only, and refuses to give more."""
REFUSALS = frozenset({400, 413, 422})


class _Error(msgspec.Struct):
    message: str = ""


class _Tokenized(msgspec.Struct):
    count: int
    max_model_len: int


class _ErrorBody(msgspec.Struct):
    error: _Error | None = None
    message: str = ""
    """In place of `error` in older versions."""


Inbox = queue.SimpleQueue[SamplerReport | None]
"""The reports on a request. None: the answer is lost."""


class VllmServer:
    def __init__(self, settings: Settings) -> None:
        self._url, self._models = settings.sample_vllm_url, settings.vllm_models
        key = settings.sample_vllm_api_key.get_secret_value()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # No time-out of reads: a request ends when it is cancelled, at its deadline at the latest.
        limits, timeout = httpx.Limits(max_connections=None), httpx.Timeout(None, connect=CONNECT_S)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits, trust_env=False)
        self._checks = httpx.Client(headers=headers, timeout=ALIVE_S, trust_env=False)
        self._adapters = VllmAdapters(self._client, self._url)
        self._answered_at = -CHECK_S
        self._inboxes: dict[str, Inbox] = {}
        self._sent: dict[str, Future[None]] = {}
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal(name="vllm"))

    def model_of(self, base: ModelFiles, request: SamplerJob) -> Served | None:
        """Return the server's base model; None if the sampler's own child has to answer the request,
        because the server has not this model or cannot do what the request asks."""
        if request.messages is None:
            listed = len(request.prompts or ()) > 1
            if listed or request.echo or request.top_logprobs is not None or request.max_tokens == 0:
                return None
        if request.adapter is not None and not is_loadable(Path(request.adapter), request.technique):
            return None
        if request.n > 1 and request.temperature < GREEDY:
            return None
        name = self._models.get(base.get("name", ""))
        return None if name is None else Served(name, base.get("end_tokens", ()))

    def is_alive(self) -> bool:
        """Return whether the server answers. Logs the reason if it does not."""
        if time.monotonic() - self._answered_at < CHECK_S:
            return True
        try:
            status = self._checks.get(f"{self._url}/models").status_code
        except httpx.HTTPError as error:
            log.warning("vllm_away", error=type(error).__name__)
            return False
        if status != httpx.codes.OK:
            log.warning("vllm_away", status=status)
            return False
        self._answered_at = time.monotonic()
        return True

    def send(self, request: SamplerJob, base: Served) -> None:
        """Send a request, which is answered with reports."""
        self._inboxes[request.id] = queue.SimpleQueue()
        self._sent[request.id] = self._portal.start_task_soon(self._answer, request, base)

    def next_report(self, request_id: str) -> SamplerReport:
        """Return the next report on the request. Raises ChildLost if the server or the connection broke off,
        TimeoutError if no report comes within POLL_S."""
        try:
            report = self._inboxes[request_id].get(timeout=POLL_S)
        except queue.Empty:
            raise TimeoutError from None
        if report is None:
            raise ChildLost
        return report

    def cancel(self, request_id: str) -> None:
        self._sent[request_id].cancel()

    def forget(self, request_id: str) -> None:
        """Forget the request, and cancel it if it has not ended."""
        self._sent.pop(request_id).cancel()
        del self._inboxes[request_id]

    def works_for_nobody(self) -> bool:
        return False  # a cancelled request ends at once

    def close(self) -> None:
        """Cancel all requests, and unload the adapters."""
        for sent in list(self._sent.values()):
            sent.cancel()
        self._portal.call(self._disconnect)
        self._stack.close()
        self._checks.close()

    async def _answer(self, request: SamplerJob, base: Served) -> None:
        inbox = self._inboxes[request.id]
        last: SamplerReport | None = CancelledReport(id=request.id)
        try:
            last = await self._outcome(request, base, inbox)
        except httpx.HTTPError as error:
            log.warning("vllm_failed", answer_id=request.id, error=type(error).__name__)
            last = None
        except NotLoaded as error:
            log.error("vllm_not_loaded", answer_id=request.id, reason=str(error))
            message = "The vLLM server could not load the model"
            last = FailedReport(id=request.id, reason="internal_error", message=message)
        except Unreadable as error:
            log.error("vllm_unreadable", answer_id=request.id, reason=str(error))
            last = FailedReport(id=request.id, reason="internal_error", message=None)
        except Exception:
            log.exception("vllm_raised", answer_id=request.id)
            last = FailedReport(id=request.id, reason="internal_error", message=None)
        finally:
            inbox.put(last)

    async def _outcome(self, request: SamplerJob, base: Served, inbox: Inbox) -> SamplerReport | None:
        """Put the reports of the answer into the inbox. Return the last one; None if the answer broke off. Raises
        NotLoaded, Unreadable, and httpx.HTTPError."""
        if request.adapter is None:
            return await self._stream(request, base, inbox)
        folder = Path(request.adapter)
        with self._adapters.in_use(folder) as name:
            adapter = replace(base, name=name)
            number = await self._adapters.load(name, folder)
            try:
                return await self._stream(request, adapter, inbox)
            except NotLoaded:  # the server was started anew, or has dropped the adapter
                await self._adapters.load(name, folder, lost=number)
                return await self._stream(request, adapter, inbox)

    async def _stream(self, request: SamplerJob, model: Served, inbox: Inbox) -> SamplerReport | None:
        path, body = path_and_body(request, model)
        reader = AnswerReader(request)
        for last in (False, True):
            async with self._client.stream("POST", f"{self._url}/{path}", json=body) as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    raise NotLoaded(f"{model.name} is not on the server")
                if response.status_code not in REFUSALS:
                    response.raise_for_status()
                    async for data in _events(response):
                        for report in reader.read(data):
                            inbox.put(report)
                    return CompleteReport(id=request.id) if reader.complete else None
                refused = _refused(request, await _start_of(response))
            # vLLM refuses an answer that may be longer than its context; the sampler's own child ends it there.
            room = 0 if last else await self._room(body)
            if not 0 < room < request.max_tokens:
                break
            body["max_tokens"] = room
        return refused

    async def _room(self, body: JsonObject) -> int:
        """Return the number of tokens for which the context has room after the request's prompt; 0 if unknown."""
        address = f"{self._url.removesuffix('/v1')}/tokenize"
        response = await self._client.post(address, json=tokenize_body(body), timeout=ADMIN_S)
        try:
            found = msgspec.json.decode(response.content, type=_Tokenized)
        except (msgspec.DecodeError, RecursionError):
            return 0
        return found.max_model_len - found.count

    async def _disconnect(self) -> None:
        try:
            await self._adapters.unload_all()
        finally:
            await self._client.aclose()


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event, without the last one, `[DONE]`. Raises Unreadable.

    Lines end with line feeds only: httpx's own lines end also with characters that a text may contain.
    """
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise Unreadable("an event of the answer is too large")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield data


async def _start_of(response: httpx.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MAX_ERROR_BYTES:
            break
    return bytes(content)


def _refused(request: SamplerJob, content: bytes) -> RefusedReport:
    """Return the report of a request that the server refuses, such as a prompt that is too long."""
    try:
        body = msgspec.json.decode(content, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = _ErrorBody()
    reason = (body.error.message if body.error else body.message)[:500] or "it gives no reason"
    param = "prompt" if request.messages is None else "messages"
    return RefusedReport(
        id=request.id, message=f"The vLLM server refuses the request: {reason}", param=param, code="invalid_value"
    )
