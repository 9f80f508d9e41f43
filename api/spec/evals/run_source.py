"""The rows of an eval's run (`data_source`), and how the run samples answers to them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from api.spec.fields import FreeJson, JsonObject, StrictModel
from api.spec.graders.base import Case, GradingError
from api.spec.graders.model_grader import Message
from api.spec.graders.templates import namespaces, value
from api.spec.response_format import ResponseFormat
from api.spec.sampling import ReasoningEffort
from api.spec.tools import Tool, Tools, check_choice

DEFAULT_SEED = 42
"""Seed of each answer if the run gives none. It is fixed, so that a run can be repeated."""


class EvalRow(StrictModel):
    item: FreeJson
    sample: FreeJson | None = None
    """The answer to grade: `output_text` and `output_tools`, or a chat completion's `choices`."""

    @property
    def answer(self) -> str | None:
        """The text of the answer, which may be empty if the answer calls functions; None if the row has no answer."""
        match self.sample:
            case {"output_text": str(text)} | {"choices": [{"message": {"content": str(text)}}, *_]}:
                return text
        return "" if self.tools else None

    @property
    def tools(self) -> list[object]:
        """The answer's calls of functions."""
        match self.sample:
            case {"output_tools": list(calls)} | {"choices": [{"message": {"tool_calls": list(calls)}}, *_]}:
                return calls
        return []


class FileContent(StrictModel):
    type: Literal["file_content"]
    content: Annotated[list[EvalRow], Field(min_length=1)]


class FileId(StrictModel):
    type: Literal["file_id"]
    id: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of a file with purpose `evals`. Each line is a JSON object with `item` and, if it holds an answer,
    `sample`."""


def _stored_rows_only(source: object) -> object:
    kind = source.get("type") if isinstance(source, dict) else None
    if kind in ("stored_completions", "responses"):
        raise ValueError(
            f"'{kind}' is not supported, because this server keeps no answers of models: use 'file_id' or "
            "'file_content'"
        )
    return source


Source = Annotated[Annotated[FileContent | FileId, Field(discriminator="type")], BeforeValidator(_stored_rows_only)]


class JsonlSource(StrictModel):
    """Rows that are graded as they are: the run samples no answers."""

    type: Literal["jsonl"]
    source: Source


def _of_items_only(messages: list[Message]) -> list[Message]:
    for number, message in enumerate(messages):
        if any("sample" in namespaces(text) for text in message.texts):
            raise ValueError(f"message {number + 1} names sample, but there is no answer before the model is asked")
    return messages


class TemplateMessages(StrictModel):
    type: Literal["template"]
    template: Annotated[list[Message], Field(min_length=1, max_length=64), AfterValidator(_of_items_only)]
    """Messages with variables of the row, such as `{{ item.question }}`."""

    def render(self, item: JsonObject) -> list[Any]:
        return [message.render(Case("", item)) for message in self.template]


def _item_path(reference: str) -> str:
    if not reference.startswith("item."):
        raise ValueError("must be the path of the messages in each row, such as item.messages")
    namespaces(f"{{{{{reference}}}}}")
    return reference


class ItemReference(StrictModel):
    type: Literal["item_reference"]
    item_reference: Annotated[str, Field(max_length=1024), AfterValidator(_item_path)]
    """Path of the messages in a row, such as `item.messages`."""

    def render(self, item: JsonObject) -> list[Any]:
        messages = value(self.item_reference, Case("", item))
        if not isinstance(messages, list):
            raise GradingError("invalid_variable_error", f"{self.item_reference} is not an array of messages")
        return messages


InputMessages = Annotated[TemplateMessages | ItemReference, Field(discriminator="type")]


def _valid(kind: Any) -> AfterValidator:
    """Return a validator that raises ValueError if the value does not have this type, and else returns the value
    unchanged."""
    adapter = TypeAdapter[object](kind)

    def check(value: object) -> object:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"{where}: {problem}" if where else problem) from None
        return value

    return AfterValidator(check)


def _offered(tools: list[Tool]) -> list[Tool]:
    check_choice(tools, "auto")
    return tools


class SamplingParams(StrictModel):
    """Options of each completion, with the types and bounds of /v1/chat/completions."""

    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum length of an answer, in tokens. Null: up to the end of the model's context."""
    reasoning_effort: ReasoningEffort | None = None
    """`none` turns reasoning off, if the chat template can. Null: the template's default."""
    response_format: Annotated[FreeJson, _valid(ResponseFormat)] | None = None
    """The form of the answers, as in /v1/chat/completions."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = DEFAULT_SEED
    """Seed of the draws."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    """Sampling temperature; 0 always takes the likeliest token."""
    tools: Annotated[list[FreeJson], _valid(Annotated[Tools, AfterValidator(_offered)])] | None = None
    """Functions that the model may call, as in /v1/chat/completions."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Tokens are drawn from the likeliest ones whose probabilities add up to this."""


class CompletionsSource(StrictModel):
    """Rows to which a model answers, before its answers are graded."""

    type: Literal["completions"]
    source: Source
    model: Annotated[str, Field(min_length=1, max_length=256)]
    input_messages: InputMessages
    sampling_params: SamplingParams = SamplingParams()

    def chat_body(self, messages: object) -> JsonObject:
        """Return the body of the chat completion."""
        params = self.sampling_params.model_dump(exclude_none=True)
        return {"model": self.model, "messages": messages, **params}


def _no_responses(source: object) -> object:
    if isinstance(source, dict) and source.get("type") == "responses":
        raise ValueError("'responses' is not supported, because there is no Responses API here: use 'completions'")
    return source


RunSource = Annotated[
    Annotated[JsonlSource | CompletionsSource, Field(discriminator="type")], BeforeValidator(_no_responses)
]
