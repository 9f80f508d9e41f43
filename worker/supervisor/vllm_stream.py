"""From a request to the body that a vLLM server takes, and from the chunks of its answer to a sampler's reports."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api.spec.fields import JsonObject
from api.spec.sampling import SamplerJob
from api.spec.tools import NamedTool
from worker.shared.reports import (
    FinishedReport,
    ReasoningReport,
    SamplerReport,
    StartedReport,
    TextReport,
    TokenLogprob,
    ToolCallReport,
    TopLogprob,
)

PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Options that have no effect. Without them vLLM takes those of the model's generation_config.json, which requests
here do not have."""


class Unreadable(Exception):
    """The server's answer is not one that this version understands. The message is for the operator."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int
    id: str | None = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The name of `reasoning` in older versions."""
    tool_calls: list[_Call] | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list["_Token"] = []


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    index: int
    delta: _Delta | None = None
    text: str | None = None
    """The next piece of an answer of /v1/completions, which has no `delta`."""
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = 0


class Chunk(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Served:
    """A model on the server."""

    name: str
    end_tokens: Sequence[int] = ()
    """Tokens that end its answers, beside those that the server knows."""


def path_and_body(request: SamplerJob, model: Served) -> tuple[str, JsonObject]:
    """Return the path and the body of the HTTP request."""
    body: JsonObject = {
        "model": model.name,
        "stream": True,
        # Each chunk then has the number of the prompt's tokens, and of the answer's so far.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "n": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stop": request.stop,
        "stop_token_ids": [*model.end_tokens],
        **PLAIN,
    }
    if request.response_format is not None:
        body["response_format"] = request.response_format.model_dump(mode="json", exclude_none=True)
    if request.messages is None:
        assert request.prompts is not None
        return "completions", {**body, "prompt": request.prompts[0], "max_tokens": request.max_tokens}
    body |= {"messages": [_sent(message) for message in request.messages], "max_tokens": request.max_tokens}
    if request.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if not request.thinking:
        body["chat_template_kwargs"] = {"enable_thinking": False}
    if request.offered_tools:
        choice = request.tool_choice
        body |= {
            "tools": [tool.model_dump(exclude_none=True) for tool in request.offered_tools],
            "tool_choice": choice.model_dump() if isinstance(choice, NamedTool) else choice,
            "parallel_tool_calls": request.parallel_tool_calls,
        }
    return "chat/completions", body


def tokenize_body(body: JsonObject) -> JsonObject:
    """Return the body of the request that counts the prompt's tokens. `body`: that of `path_and_body`."""
    names = ("model", "messages", "prompt", "tools", "chat_template_kwargs")
    return {name: body[name] for name in names if name in body}


def _sent(message: Mapping[str, object]) -> JsonObject:
    """Return the message in OpenAI's form, in which the arguments of a call are a text. Templates take an object."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    return {**message, "tool_calls": [{**call, "function": _function(call["function"])} for call in calls]}


def _function(function: JsonObject) -> JsonObject:
    arguments = function["arguments"]
    return {**function, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


class AnswerReader:
    """Turns the chunks of one answer into reports."""

    def __init__(self, request: SamplerJob) -> None:
        self._request = request
        self._started = False
        self._unfinished = set(range(request.n))
        self._texts: dict[int, int] = {}
        """Number of characters of each choice so far."""
        self._held: dict[int, list[_Token]] = {}
        """Tokens of each choice whose text the server holds back, maybe the start of a stop or a character."""
        self._calls: dict[int, dict[int, _Call]] = {}

    @property
    def complete(self) -> bool:
        return self._started and not self._unfinished

    def read(self, data: bytes) -> Iterator[SamplerReport]:
        """Yield the reports of one chunk. Raise Unreadable."""
        try:
            chunk = msgspec.json.decode(data, type=Chunk)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(f"a chunk of the answer is not a completion: {data[:300]!r}") from error
        if not chunk.choices:
            return
        if chunk.usage is None:
            raise Unreadable("the chunks of an answer have no usage, which needs vLLM 0.6 or newer")
        if not self._started:
            self._started = True
            yield StartedReport(id=self._request.id, prompt_tokens=chunk.usage.prompt_tokens)
        for choice in chunk.choices:
            yield from self._of_choice(choice, chunk.usage.completion_tokens or 0)

    def _of_choice(self, choice: _Choice, tokens: int) -> Iterator[SamplerReport]:
        index, delta = choice.index, choice.delta or _Delta(content=choice.text)
        if reasoning := delta.reasoning or delta.reasoning_content:
            yield ReasoningReport(id=self._request.id, index=index, text=reasoning)
        if reasoning or delta.tool_calls:
            self._held.pop(index, None)
        else:
            self._held.setdefault(index, []).extend((choice.logprobs and choice.logprobs.content) or ())
        if delta.content:
            found = self._held.pop(index, [])
            if choice.finish_reason == "stop":
                _drop_end(found, delta.content)
            yield self._text(index, delta.content, found)
        for call in delta.tool_calls or ():
            self._add(index, call)
        if choice.finish_reason is None:
            return
        if choice.finish_reason not in ("stop", "length", "tool_calls"):
            raise Unreadable(f"the answer ended with '{choice.finish_reason[:64]}'")
        calls = list(self._finished_calls(index))
        yield from calls
        self._unfinished.discard(index)
        reason = "tool_calls" if any(isinstance(call, ToolCallReport) for call in calls) else choice.finish_reason
        yield FinishedReport(id=self._request.id, index=index, reason=reason, tokens=tokens)

    def _text(self, index: int, text: str, found: Sequence[_Token]) -> TextReport:
        offset = self._texts.get(index, 0)
        self._texts[index] = offset + len(text)
        tokens = None
        if self._request.top_logprobs is not None:
            tokens = [_token(token, offset) for token in found]
        return TextReport(id=self._request.id, index=index, text=text, tokens=tokens)

    def _add(self, index: int, part: _Call) -> None:
        """Add the next part of a call: its id and name come first, its arguments in pieces."""
        call = self._calls.setdefault(index, {}).setdefault(part.index, _Call(part.index, function=_Function("", "")))
        call.id = call.id or part.id
        call.function.name = call.function.name or part.function.name
        call.function.arguments = (call.function.arguments or "") + (part.function.arguments or "")

    def _finished_calls(self, index: int) -> Iterator[ToolCallReport | TextReport]:
        """Yield the choice's calls. A call that was cut short is text, as it is for the sampler's own child."""
        for number, call in sorted(self._calls.get(index, {}).items()):
            name, arguments = call.function.name or "", call.function.arguments or ""
            if _is_object(arguments):
                shared = {"number": number, "call_id": call.id or f"call_{number}", "name": name}
                yield ToolCallReport(id=self._request.id, index=index, arguments=arguments, **shared)  # type: ignore[arg-type]
            else:
                yield self._text(index, arguments, ())


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _drop_end(tokens: list[_Token], text: str) -> None:
    """Remove the end token, or those of a stop, whose text is not in the answer. `text`: the answer's last piece.

    A token may begin in the answer, and be a part of a character."""
    while tokens and (last := tokens[-1].token) and "\ufffd" not in last:
        if any(text.endswith(last[:length]) for length in range(1, len(last) + 1)):
            break
        tokens.pop()


def _token(token: _Token, offset: int) -> TokenLogprob:
    top = [TopLogprob(token=each.token, bytes=_bytes(each), logprob=each.logprob) for each in token.top_logprobs]
    return TokenLogprob(token=token.token, bytes=_bytes(token), logprob=token.logprob, top=top, offset=offset)


def _bytes(token: _Token) -> list[int]:
    return list(token.token.encode(errors="replace")) if token.bytes is None else token.bytes
