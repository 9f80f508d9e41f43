"""Requests to the sampler, as the API sends them and the sampler's child process reads them."""

from typing import Annotated, NotRequired, Self, TypedDict

from pydantic import AfterValidator, Field, model_validator

from api.spec.artifacts import Artifact
from api.spec.fields import JsonObject, StrictModel
from api.spec.formats import Messages
from api.spec.response_format import ResponseFormat, TextFormat
from api.spec.techniques import Technique
from api.spec.tools import ToolChoice, Tools

MAX_CHOICES = 16
"""Maximum number of answers to one request: the number of its prompts times `n`."""


def _only_none(effort: str) -> str:
    if effort != "none":
        raise ValueError('only "none" is supported, which turns reasoning off: leave it out to let the model reason')
    return effort


ReasoningEffort = Annotated[str, AfterValidator(_only_none)]
"""OpenAI's option of reasoning models. "none" turns reasoning off, by the chat template's own switch."""


class SamplingRequest(StrictModel):
    """A completion request. Requests to both of OpenAI's endpoints, for chats and for completions, are converted to
    this form."""

    messages: Messages | None = None
    """A conversation in the form that chat templates take. Excludes `prompts`."""
    prompts: list[str | list[int]] | None = None
    """Texts to continue, or their token ids. Excludes `messages`."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    """Number of answers to each prompt."""
    max_tokens: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(ge=0)]
    """Sampling temperature; 0 selects greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    """Number of likeliest tokens to return at each position. None: no log-probabilities at all."""
    tools: Tools = Field(default_factory=list)
    """Functions that the model may call. Only for `messages`."""
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """Whether an answer may have several calls."""
    echo: bool = False
    """Whether each answer begins with its prompt. Only for `prompts`."""
    response_format: ResponseFormat | None = None
    """Format of each answer. An answer that is cut short at `max_tokens` may violate it."""
    thinking: bool = True
    """Whether the model may reason before it answers. Only for `messages`. False: the chat template turns it off."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.messages is None) == (self.prompts is None):
            raise ValueError("give either messages or prompts")
        return self

    @property
    def offered_tools(self) -> Tools:
        """Return the tools that the model sees."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def begins_freely(self) -> bool:
        """Return whether an answer may begin with any text: no format and no demanded call restricts it."""
        if self.offered_tools and self.tool_choice != "auto":
            return False
        return self.response_format is None or isinstance(self.response_format, TextFormat)


class ModelFiles(TypedDict):
    """The stored files of a base model, or of the fully fine-tuned model that is sampled instead."""

    digest: str
    artifacts: list[Artifact]
    name: NotRequired[str]
    """Name of the base model. A fully fine-tuned model has none."""
    end_tokens: NotRequired[list[int]]
    """The base model's fact of this name."""


class AdapterFiles(TypedDict):
    name: str
    artifacts: list[Artifact]


class SampledModel(TypedDict):
    base: ModelFiles
    adapter: AdapterFiles | None
    technique: JsonObject | None
    """Technique of the adapter or of the fully fine-tuned model; None for a base model."""


class QueuedRequest(TypedDict):
    """The content of a request in the queue: a SamplingRequest, and the files of its model."""

    ask: JsonObject
    model: SampledModel


class SamplerJob(SamplingRequest):
    """A request with the local files of its model, for the sampler's child process."""

    id: str
    base: str
    """Folder of the base model."""
    adapter: str | None = None
    """Folder of the adapter or, for the technique `full`, of the fine-tuned model. None: the base model itself."""
    technique: Technique | None = None
    """Technique of the adapter."""
    background: bool = False
    """Whether the request comes from a batch, an eval or a grader. Other requests are answered first, and may interrupt
    this one."""
