"""The bodies of /v1/chat/completions and /v1/completions: OpenAI's fields.

Clients also send fields that Attune does not support, often with values that would change nothing. Such values are
accepted; all other values of these fields are refused.
"""

import json
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.services.sampling import TooManyTokens
from api.spec.fields import StrictModel
from api.spec.formats import Message, Messages, RowError, RowWarning
from api.spec.formats.calls import link_calls
from api.spec.formats.messages import parse_message
from api.spec.response_format import ResponseFormat
from api.spec.sampling import MAX_CHOICES, ReasoningEffort, SamplingRequest
from api.spec.tools import ToolChoice, Tools, check_choice

MAX_STOPS, MAX_STOP_LETTERS = 4, 256
COMPLETION_TOKENS = 16
"""The default `max_tokens` of /v1/completions, as at OpenAI."""


def _only(*neutral: object, because: str) -> AfterValidator:
    def check(value: object) -> object:
        if value not in neutral:
            raise ValueError(f"not supported here: {because}")
        return value

    return AfterValidator(check)


_ONLY_TEXT = "models generate text only"
_NO_PENALTY = "tokens are drawn by temperature and top_p alone"

NoPenalty = Annotated[float | None, _only(None, 0, because=_NO_PENALTY)]
Unsupported = Annotated[object, _only(None, because="it has no counterpart here")]


def _messages(value: object) -> Messages:
    """Return the messages as chat templates read them."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be an array with at least one message")
    messages = [_message(number, entry) for number, entry in enumerate(value, start=1)]
    try:
        link_calls(messages, [])
    except RowError as error:
        raise ValueError(error.message) from None
    return messages


def _message(number: int, raw: object) -> Message:
    warnings: list[RowWarning] = []
    if isinstance(raw, dict):
        # Clients return an assistant's message with all keys of their own class, most of them null or empty.
        raw = {name: value for name, value in raw.items() if value not in (None, []) or name == "content"}
    try:
        message, _ = parse_message(raw, warnings, f"message {number}")
    except RowError as error:
        raise ValueError(f"message {number} {error.message}") from None
    if warnings:
        raise ValueError(warnings[0].message.replace(" and is ignored", ""))
    return message


def _stops(value: object) -> object:
    return [] if value is None else [value] if isinstance(value, str) else value


Stop = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LETTERS)]],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_stops),
]


class StreamOptions(StrictModel):
    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Accepted without effect: chunks are never padded."""


class SamplingBody(StrictModel):
    """The fields of both bodies."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = Field(default_factory=list)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """The caller's end user, for the server's log."""
    frequency_penalty: NoPenalty = None
    presence_penalty: NoPenalty = None
    logit_bias: Annotated[dict[str, float] | None, _only(None, {}, because=_NO_PENALTY)] = None

    @model_validator(mode="before")
    @classmethod
    def _text_is_unicode(cls, data: object) -> object:
        try:
            json.dumps(data, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError("the body has half of a character (a lone surrogate such as \\ud800)") from None
        except RecursionError:
            raise ValueError("the body is nested too deeply") from None
        return data

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for requests with stream: true")
        return self

    @property
    def end_user(self) -> str | None:
        return self.user

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a chunk that reports the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def _require_few_tokens(self, longest: int, *fields: str) -> None:
        """Raise TooManyTokens if one of the fields is larger than `longest`."""
        for field in fields:
            requested: int | None = getattr(self, field)
            if requested is not None and requested > longest:
                raise TooManyTokens(field, requested, longest)

    def _common(self) -> dict[str, object]:
        return {
            "n": self.n or 1,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": self.seed,
            "stop": self.stop,
        }


class ChatBody(SamplingBody):
    messages: Annotated[Messages, BeforeValidator(_messages)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[object, _only(None, [], because="use tools")] = None
    function_call: Annotated[object, _only(None, "none", "auto", because="use tool_choice")] = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[object, _only(None, ["text"], because=_ONLY_TEXT)] = None
    audio: Annotated[object, _only(None, because=_ONLY_TEXT)] = None
    prediction: Unsupported = None
    reasoning_effort: ReasoningEffort | None = None
    web_search_options: Annotated[object, _only(None, because=_ONLY_TEXT)] = None
    store: Annotated[object, _only(None, False, because="answers are not kept")] = None
    metadata: Annotated[object, _only(None, {}, because="answers are not kept")] = None
    service_tier: Annotated[object, _only(None, "auto", "default", because="there is only one service tier")] = None
    verbosity: Annotated[object, _only(None, "medium", because="the length of answers is not adjustable")] = None
    moderation: Annotated[object, _only(None, because="there is no moderation")] = None
    safety_identifier: str | None = None
    """The newer name of `user`."""
    prompt_cache_key: str | None = None
    """Accepted without effect, as are the other fields that begin with `prompt_cache`: prompts are not cached."""
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, object] | None = None

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens is the older name of max_completion_tokens: give one of them")
        if self.parallel_tool_calls is not None and not self.tools:
            raise ValueError("parallel_tool_calls is only for requests with tools")
        check_choice(self.tools or [], self.tool_choice or "auto")
        return self

    @property
    def end_user(self) -> str | None:
        return self.safety_identifier or self.user

    def sampling_request(self, longest: int) -> SamplingRequest:
        """Return the sampler's request. `longest`: the largest number of tokens of an answer, and the default. Raise
        TooManyTokens."""
        self._require_few_tokens(longest, "max_completion_tokens", "max_tokens")
        return SamplingRequest(
            messages=self.messages,
            max_tokens=self.max_completion_tokens or self.max_tokens or longest,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            response_format=self.response_format,
            tools=self.tools or [],
            tool_choice=self.tool_choice or "auto",
            parallel_tool_calls=self.parallel_tool_calls is not False,
            thinking=self.reasoning_effort is None,
            **self._common(),
        )


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionBody(SamplingBody):
    prompt: str | Tokens | list[str] | list[Tokens]
    """A text or its tokens, or a list of either."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    """Whether each answer begins with its prompt. If `max_tokens` is 0, the answer is the prompt alone."""
    suffix: Annotated[object, _only(None, because="models continue a text and cannot fill in a gap")] = None
    best_of: Annotated[object, _only(None, 1, because="request several answers with n, and choose one")] = None

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if not self.prompts or len(self.prompts) * (self.n or 1) > MAX_CHOICES:
            raise ValueError(f"the number of prompts times n must be from 1 to {MAX_CHOICES}")
        return self

    @model_validator(mode="after")
    def _some_tokens(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 is only for requests with echo: true")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [token for token in self.prompt if isinstance(token, int)]
        return [tokens] if tokens else [prompt for prompt in self.prompt if not isinstance(prompt, int)]

    def sampling_request(self, longest: int) -> SamplingRequest:
        """Return the sampler's request. `longest`: the largest number of tokens of an answer. Raise TooManyTokens."""
        self._require_few_tokens(longest, "max_tokens")
        return SamplingRequest(
            prompts=self.prompts,
            max_tokens=min(COMPLETION_TOKENS, longest) if self.max_tokens is None else self.max_tokens,
            top_logprobs=self.logprobs,
            echo=bool(self.echo),
            **self._common(),
        )
