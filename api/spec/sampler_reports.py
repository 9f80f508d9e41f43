"""The JSON of a sampler's reports (docs/internals/sampling.md), as the API reads it from the queue."""

from typing import Literal, TypedDict

FinishReason = Literal["stop", "length", "tool_calls"]


class TopToken(TypedDict):
    """One of the likeliest tokens at a position, with its log-probability in nats."""

    token: str
    bytes: list[int]
    logprob: float


class SampledToken(TypedDict):
    token: str
    bytes: list[int]
    logprob: float | None
    """Log-probability in nats. None for the first token of a prompt, which nothing predicts; `top` is then None,
    too."""
    top: list[TopToken] | None
    offset: int
    """Position in the answer's text where the token begins, in characters."""


class Started(TypedDict):
    type: Literal["started"]
    prompt_tokens: int


class Text(TypedDict):
    """The next piece of an answer."""

    type: Literal["text"]
    index: int
    """The answer's number, from 0."""
    text: str
    tokens: list[SampledToken] | None
    """None if the request asks for no log-probabilities."""


class Reasoning(TypedDict):
    """The next piece of an answer's reasoning, which comes before its text."""

    type: Literal["reasoning"]
    index: int
    """The answer's number."""
    text: str


class ToolCall(TypedDict):
    """A complete call of a function."""

    type: Literal["tool_call"]
    index: int
    """The answer's number."""
    number: int
    """The call's number in the answer, from 0."""
    call_id: str
    name: str
    arguments: str
    """The arguments, as the JSON text of an object."""


class Finished(TypedDict):
    """The end of one answer."""

    type: Literal["finished"]
    index: int
    reason: FinishReason
    tokens: int
    reasoning_tokens: int
    """Number of the tokens that belong to the reasoning."""


class Done(TypedDict):
    type: Literal["done"]


class Refused(TypedDict):
    type: Literal["refused"]
    message: str
    param: str
    code: str


class Cancelled(TypedDict):
    type: Literal["cancelled"]


class Failed(TypedDict):
    type: Literal["failed"]
    reason: str
    message: str | None


class Lost(TypedDict):
    type: Literal["lost"]


AnswerReport = Text | Reasoning | ToolCall | Finished
Report = Started | AnswerReport | Done | Refused | Cancelled | Failed | Lost
