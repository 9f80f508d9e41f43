"""Functions that a model may call (OpenAI's `tools`), and whether it must (`tool_choice`)."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from api.spec.fields import JsonObject, StrictModel
from api.spec.response_format import Name, check_size, checked_schema

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 << 10
"""Maximum total size of the functions' parameters as JSON, in bytes."""


class Function(StrictModel):
    name: Name
    description: str | None = None
    parameters: JsonObject | None = None
    """JSON Schema of the arguments. None: a function without arguments."""
    strict: bool | None = None
    """Whether the schema is enforced in every call. If the request requires a call (`tool_choice`), it is always
    enforced."""

    @property
    def schema_of_arguments(self) -> JsonObject:
        return self.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


class Tool(StrictModel):
    type: Literal["function"]
    function: Function


class NamedFunction(StrictModel):
    name: Name


class NamedTool(StrictModel):
    """The function that the model must call."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def _checked(tools: Sequence[Tool] | None) -> Sequence[Tool] | None:
    names = [tool.function.name for tool in tools or ()]
    if len(set(names)) < len(names):
        raise ValueError("two tools have the same name")
    check_size([tool.function.parameters for tool in tools or ()], MAX_TOOLS_BYTES)
    return tools


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS), AfterValidator(_checked)]


def check_choice(tools: Sequence[Tool], choice: ToolChoice) -> None:
    """Raise ValueError if the choice needs a tool that is not given, or if a schema that must be enforced cannot be
    enforced. If the choice names one tool, the schemas of the others are not checked, because they cannot be called."""
    if choice not in {"auto", "none"} and not tools:
        raise ValueError("tool_choice needs tools")
    named = choice.function.name if isinstance(choice, NamedTool) else None
    if named is not None and named not in {tool.function.name for tool in tools}:
        raise ValueError(f"tool_choice: no tool has the name '{named}'")
    for path, schema in enforced_schemas(tools, choice):
        try:
            _check_arguments(schema)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def enforced_schemas(tools: Sequence[Tool], choice: ToolChoice) -> Iterator[tuple[str, JsonObject]]:
    """Yield the schemas of arguments that calls are held to, with their paths."""
    named = choice.function.name if isinstance(choice, NamedTool) else None
    for index, tool in enumerate(tools):
        may_be_called = choice != "none" and named in (None, tool.function.name)
        if may_be_called and (choice != "auto" or tool.function.strict):
            yield f"tools[{index}].function.parameters", tool.function.schema_of_arguments


def _check_arguments(schema: JsonObject) -> None:
    if checked_schema(schema).get("type", "object") != "object":
        raise ValueError('type must be "object", because arguments are an object')
