"""Turns a sampler's reports into OpenAI's completion objects: one whole object, or server-sent events."""

import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import structlog
from pydantic import BaseModel

from api.errors import ServiceError
from api.schemas.completions import (
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
    Delta,
    DeltaToolCall,
    MessageToolCall,
    Usage,
)
from api.services.sampling import Answer
from api.spec.sampler_reports import Finished, FinishReason, Reasoning, SampledToken, Text, ToolCall

log = structlog.get_logger(__name__)


@dataclass
class Choice:
    """The part of one choice (answer) that has arrived."""

    text: str = ""
    reasoning: str = ""
    tokens: list[SampledToken] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class ResponseWriter(ABC):
    """Writes the response objects of one endpoint."""

    id: str
    model: str
    with_logprobs: bool
    created: int = field(default_factory=lambda: int(time.time()))

    @abstractmethod
    def whole(self, choices: list[Choice], usage: Usage) -> BaseModel: ...

    @abstractmethod
    def opening(self, index: int) -> BaseModel | None:
        """Return the chunk that precedes a choice's first text; None if the endpoint has no such chunk."""

    @abstractmethod
    def delta(self, report: Text) -> BaseModel: ...

    @abstractmethod
    def reasoning(self, report: Reasoning) -> BaseModel: ...

    @abstractmethod
    def call(self, report: ToolCall) -> BaseModel: ...

    @abstractmethod
    def finish(self, index: int, reason: FinishReason) -> BaseModel: ...

    @abstractmethod
    def usage(self, usage: Usage) -> BaseModel: ...

    @property
    def _head(self) -> dict[str, object]:
        return {"id": self.id, "created": self.created, "model": self.model}


class ChatWriter(ResponseWriter):
    def whole(self, choices: list[Choice], usage: Usage) -> ChatCompletion:
        response_choices = [
            ChatChoice(
                index=index,
                message=ChatMessage(
                    content=choice.text or (None if choice.calls else ""),
                    reasoning_content=choice.reasoning or None,
                    tool_calls=[MessageToolCall(**_call(report)) for report in choice.calls] or None,
                ),
                logprobs=ChatLogprobs.of(choice.tokens) if self.with_logprobs else None,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(choices)
        ]
        return ChatCompletion(**self._head, choices=response_choices, usage=usage)

    def opening(self, index: int) -> ChatChunk:
        return self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content="")))

    def delta(self, report: Text) -> ChatChunk:
        logprobs = ChatLogprobs.of(report["tokens"]) if self.with_logprobs else None
        return self._chunk(ChunkChoice(index=report["index"], delta=Delta(content=report["text"]), logprobs=logprobs))

    def reasoning(self, report: Reasoning) -> ChatChunk:
        return self._chunk(ChunkChoice(index=report["index"], delta=Delta(reasoning_content=report["text"])))

    def call(self, report: ToolCall) -> ChatChunk:
        call = DeltaToolCall(index=report["number"], **_call(report))
        return self._chunk(ChunkChoice(index=report["index"], delta=Delta(tool_calls=[call])))

    def finish(self, index: int, reason: FinishReason) -> ChatChunk:
        return self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=reason))

    def usage(self, usage: Usage) -> ChatChunk:
        return ChatChunk(**self._head, choices=[], usage=usage)

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(**self._head, choices=[choice])


class CompletionWriter(ResponseWriter):
    def whole(self, choices: list[Choice], usage: Usage) -> Completion:
        response_choices = [
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=CompletionLogprobs.of(choice.tokens) if self.with_logprobs else None,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(choices)
        ]
        return Completion(**self._head, choices=response_choices, usage=usage)

    def opening(self, index: int) -> None:
        return None

    def delta(self, report: Text) -> CompletionChunk:
        logprobs = CompletionLogprobs.of(report["tokens"]) if self.with_logprobs else None
        return self._chunk(CompletionChunkChoice(index=report["index"], text=report["text"], logprobs=logprobs))

    def reasoning(self, report: Reasoning) -> NoReturn:
        raise AssertionError("a text is continued as it is, without a part that is reasoning")

    def call(self, report: ToolCall) -> NoReturn:
        raise AssertionError("a completion has no tools")

    def finish(self, index: int, reason: FinishReason) -> CompletionChunk:
        return self._chunk(CompletionChunkChoice(index=index, text="", finish_reason=reason))

    def usage(self, usage: Usage) -> CompletionChunk:
        return CompletionChunk(**self._head, choices=[], usage=usage)

    def _chunk(self, choice: CompletionChunkChoice) -> CompletionChunk:
        return CompletionChunk(**self._head, choices=[choice])


async def collect(writer: ResponseWriter, answer: Answer) -> BaseModel:
    """Return the complete object once all choices have ended."""
    choices: dict[int, Choice] = defaultdict(Choice)
    ends: list[Finished] = []
    async for report in answer.reports:
        choice = choices[report["index"]]
        if report["type"] == "text":
            choice.text += report["text"]
            choice.tokens += report["tokens"] or ()
        elif report["type"] == "reasoning":
            choice.reasoning += report["text"]
        elif report["type"] == "tool_call":
            choice.calls.append(report)
        else:
            choice.finish_reason = report["reason"]
            ends.append(report)
    ordered = [choices[index] for index in sorted(choices)]
    return writer.whole(ordered, _usage(answer, ends))


async def stream(writer: ResponseWriter, answer: Answer, *, with_usage: bool) -> AsyncIterator[bytes]:
    """Yield the chunks as they arrive. An error becomes the last event: the status has already been sent."""
    opened: set[int] = set()
    ends: list[Finished] = []
    try:
        async for report in answer.reports:
            if report["index"] not in opened:
                opened.add(report["index"])
                if (opening := writer.opening(report["index"])) is not None:
                    yield _event(opening)
            if report["type"] == "text":
                yield _event(writer.delta(report))
            elif report["type"] == "reasoning":
                yield _event(writer.reasoning(report))
            elif report["type"] == "tool_call":
                yield _event(writer.call(report))
            else:
                ends.append(report)
                yield _event(writer.finish(report["index"], report["reason"]))
    except ServiceError as error:
        log.warning("stream_failed", answer_id=writer.id, error=type(error).__name__)
        yield f"data: {json.dumps(error.body())}\n\n".encode()
        return
    if with_usage:
        yield _event(writer.usage(_usage(answer, ends)))
    yield b"data: [DONE]\n\n"


def _usage(answer: Answer, ends: Sequence[Finished]) -> Usage:
    """Return the usage of an answer whose choices have all ended."""
    return Usage.of(
        answer.prompt_tokens, sum(end["tokens"] for end in ends), sum(end["reasoning_tokens"] for end in ends)
    )


def _call(report: ToolCall) -> dict[str, Any]:
    function = CalledFunction(name=report["name"], arguments=report["arguments"])
    return {"id": report["call_id"], "function": function}


def _event(chunk: BaseModel) -> bytes:
    return f"data: {chunk.model_dump_json()}\n\n".encode()
