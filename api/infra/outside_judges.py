"""Requests to the operator's judges, models of servers with OpenAI's API. The addresses come from the settings only,
never from users."""

import asyncio
import math
import ssl
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property

import httpx
import msgspec

from api.settings import Judge, Settings
from api.spec.fields import JsonObject
from api.spec.graders.base import GradingError, Question
from api.spec.graders.judgement import MAX_TOKENS, conversation, response_format

MAX_BYTES = 4 * 1024**2
"""Size limit of a response, in bytes."""
MAX_RETRY_AFTER_S = 60.0
TOKEN_CHARS = 4
"""Number of characters that count as one token, if the server reports no numbers of tokens."""
RETRIED = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which the same request may succeed later."""
AWAY = frozenset({429, 502, 503})
"""Statuses of a server that can answer no question at the moment. Status 504 is a time-out, so it is not among them."""
FORMAT_REFUSED = frozenset({400, 422, 501})
"""Statuses with which a server may refuse a request because it does not know `response_format`."""


class Cause(Enum):
    """The cause of a missing judgement."""

    QUESTION = auto()
    """The judge answers, but not with a judgement of this question."""
    JUDGE = auto()
    """The judge is away: it cannot be reached or is too busy, so it cannot answer other questions either."""
    EITHER = auto()
    """The judge failed, or took too long. It may be away, or this question may be too much for it."""
    CRASH = auto()
    """The judge's process died before its answer was complete. This question may have killed it."""


class Unanswered(GradingError):
    """The judge gave no usable answer."""

    def __init__(self, error: GradingError, *, retry: bool, cause: Cause = Cause.QUESTION, wait_s: float = 0.0) -> None:
        """`retry`: another attempt may succeed. `wait_s`: the time that the judge asks to wait."""
        super().__init__(error.flag, error.message)
        self.retry, self.cause, self.wait_s = retry, cause, wait_s
        self.since = math.inf
        """Time at which the first request that was `doubtful` was sent; infinity if none was."""

    @property
    def away(self) -> bool:
        return self.cause is Cause.JUDGE

    @property
    def doubtful(self) -> bool:
        """Whether this question may be the cause."""
        return self.cause in {Cause.EITHER, Cause.CRASH}


@dataclass(frozen=True)
class Reply:
    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class _Response:
    status: int
    retry_after: str
    content: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class OutsideJudges:
    def __init__(self, settings: Settings) -> None:
        self._judges, self._timeout_s = settings.judges, settings.judge_timeout_s
        self._unformatted: set[str] = set()
        """Names of models that refused `response_format`, and answered without it."""

    def identity(self, name: str) -> list[str] | None:
        """Return what identifies the judge of this name, its URL and its model; None if there is no such judge."""
        judge = self._judges.get(name)
        return None if judge is None else [_endpoint(judge), judge.model]

    async def ask(self, question: Question) -> Reply:
        """Return the judge's answer as text. Raises Unanswered if there is no answer."""
        name = question.model
        formatted = name not in self._unformatted
        response = await self._send(question, formatted=formatted)
        if formatted and response.status in FORMAT_REFUSED:
            response = await self._send(question, formatted=False)
            if response.is_success:
                self._unformatted.add(name)
        reply = _reply(name, response)
        if reply.prompt_tokens or reply.completion_tokens:
            return reply
        asked = sum(len(message["content"]) for message in question.messages)
        return replace(reply, prompt_tokens=asked // TOKEN_CHARS, completion_tokens=len(reply.text) // TOKEN_CHARS)

    async def _send(self, question: Question, *, formatted: bool) -> _Response:
        name, judge = question.model, self._judges[question.model]
        body = {"model": judge.model, **_body(question, formatted=formatted)}
        headers = {"accept": "application/json"}
        if key := judge.api_key.get_secret_value():
            headers["authorization"] = f"Bearer {key}"
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(verify=self._tls, timeout=self._timeout_s) as client,
                client.stream("POST", _endpoint(judge), json=body, headers=headers) as sent,
            ):
                return _Response(sent.status_code, sent.headers.get("retry-after", ""), await _read(sent))
        except (TimeoutError, httpx.TimeoutException):
            raise _failed(f"{name} did not answer within {self._timeout_s:g} s", Cause.EITHER) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            cause = Cause.JUDGE if isinstance(error, httpx.ConnectError | httpx.InvalidURL) else Cause.EITHER
            raise _failed(f"{name} could not be reached ({type(error).__name__})", cause) from None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()


def _endpoint(judge: Judge) -> str:
    return f"{judge.url}/chat/completions"


def _body(question: Question, *, formatted: bool) -> JsonObject:
    """Return the body of the request, without the model's name."""
    sampling = question.sampling
    options = {
        "max_completion_tokens": sampling.max_tokens or MAX_TOKENS,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "reasoning_effort": sampling.reasoning_effort,
        "response_format": response_format(question) if formatted else None,
    }
    given = {key: value for key, value in options.items() if value is not None}
    return {"messages": conversation(question), **given}


async def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MAX_BYTES:
            raise httpx.DecodingError("the response is too large")
    return bytes(content)


def _reply(name: str, response: _Response) -> Reply:
    """Return the answer in a response. Raises Unanswered if there is none.

    The message quotes nothing of the response, which may contain the API key.
    """
    status = response.status
    if not response.is_success:
        retry = status in RETRIED or status >= 500
        problem = f"{name} answered with status {status}"
        if not retry:
            problem += ": the operator has to check the judge's address, key and model"
            raise Unanswered(_server_error(problem), retry=False)
        cause = Cause.JUDGE if status in AWAY else Cause.EITHER
        raise _failed(problem, cause, _seconds(response.retry_after))
    try:
        completion = msgspec.json.decode(response.content, type=_Completion)
        message = completion.choices[0].message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError):
        raise Unanswered(_server_error(f"{name} did not answer with a chat completion"), retry=True) from None
    if message.refusal:
        refused = GradingError("model_grader_refusal_error", f"{name} refused to judge the answer")
        raise Unanswered(refused, retry=False)
    text, usage = message.content or "", completion.usage or _Usage()
    model = completion.model.replace("\0", "")[:256] or name
    return Reply(text, model, _count(usage.prompt_tokens), _count(usage.completion_tokens))


def _count(tokens: int) -> int:
    """Return the number of tokens that a server reports, limited to a range that the usage ledger can add up."""
    return min(max(tokens, 0), MAX_BYTES)


def _seconds(retry_after: str) -> float:
    """Return the seconds that the `retry-after` header asks to wait; 0 if it has a date or anything else."""
    try:
        wait_s = float(retry_after)
    except ValueError:
        return 0.0
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(wait_s) else 0.0


def _failed(message: str, cause: Cause, wait_s: float = 0.0) -> Unanswered:
    return Unanswered(_server_error(message), retry=True, cause=cause, wait_s=wait_s)


def _server_error(message: str) -> GradingError:
    return GradingError("model_grader_server_error", message)
