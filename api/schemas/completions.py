"""Responses of /v1/chat/completions and /v1/completions: OpenAI's objects, whole and in chunks."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, Field

from api.spec.sampler_reports import FinishReason, SampledToken, TopToken


def _none(value: object) -> bool:
    return value is None


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int
    """The tokens of the reasoning, including its tags."""


class PromptTokensDetails(BaseModel):
    cached_tokens: Literal[0] = 0
    audio_tokens: Literal[0] = 0


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, including the reasoning and the token that ends each answer."""
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, reasoning_tokens: int) -> Self:
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning_tokens),
        )


class TopLogprob(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(TopLogprob):
    """A token with its log-probability in nats under the model's distribution, before temperature and top_p."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[SampledToken] | None) -> Self | None:
        if tokens is None:
            return None
        return cls(content=[TokenLogprob.model_validate(token | {"top_logprobs": token["top"]}) for token in tokens])


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of an echoed prompt, which nothing predicts. Its entry in `top_logprobs` is null,
    too."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """The position in the answer, in characters, where each token begins."""

    @classmethod
    def of(cls, tokens: Sequence[SampledToken] | None) -> Self | None:
        if tokens is None:
            return None
        return cls(
            tokens=[token["token"] for token in tokens],
            token_logprobs=[token["logprob"] for token in tokens],
            top_logprobs=[_by_token(token["top"]) for token in tokens],
            text_offset=[token["offset"] for token in tokens],
        )


def _by_token(top: Sequence[TopToken] | None) -> dict[str, float] | None:
    """Return the log-probabilities by token. Of tokens with the same text, such as halves of characters, the likeliest
    counts: it comes first."""
    return None if top is None else {each["token"]: each["logprob"] for each in reversed(top)}


class CalledFunction(BaseModel):
    name: str
    arguments: str
    """The arguments, as the JSON text of an object."""


class MessageToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    """The text of the answer, without its reasoning; null if the answer consists of calls."""
    reasoning_content: str | None = Field(default=None, exclude_if=_none)
    """The reasoning before the answer, without its tags. OpenAI's API returns none; clients accept it."""
    refusal: None = None
    tool_calls: list[MessageToolCall] | None = Field(default=None, exclude_if=_none)


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class DeltaToolCall(MessageToolCall):
    """A complete call: its arguments come in one piece."""

    index: int


class Delta(BaseModel):
    """The new part of a message; null fields are omitted."""

    role: Literal["assistant"] | None = Field(default=None, exclude_if=_none)
    content: str | None = Field(default=None, exclude_if=_none)
    reasoning_content: str | None = Field(default=None, exclude_if=_none)
    tool_calls: list[DeltaToolCall] | None = Field(default=None, exclude_if=_none)


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionChunkChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None


class CompletionChunk(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None
