"""The form of a chat model's judgement: the request for it, its JSON Schema, and its strict parsing."""

import json
from typing import Annotated, Any

from pydantic import Field, ValidationError

from api.spec.fields import JsonObject, StrictModel
from api.spec.graders.base import GradingError, Messages, Question

MAX_TOKENS = 2048
"""The default maximum length of a judgement, in tokens."""
MAX_STEPS = 5
SHORT_CHARS = 200
"""Maximum length of a text in `steps`, in characters. Without this limit, a small model may never end the text."""
END_OF_REASONING = "</think>"
"""The tag before the judgement in an answer of a server that leaves a model's reasoning in the content."""
UNIT = (0.0, 1.0)
"""The default range of a number, as at OpenAI."""


class Step(StrictModel):
    description: str
    conclusion: str


class Judgement(StrictModel):
    """The JSON object that a judging chat model answers with. Its fields are those of OpenAI's model graders."""

    steps: Annotated[list[Step], Field(max_length=MAX_STEPS)] = Field(default_factory=list)
    """The judge's reasoning, which comes first so that the result can follow from it."""
    result: float | str


def conversation(question: Question) -> Messages:
    """Return the question's messages with a request for the judgement in JSON.

    The request is appended to the last message if that is a user's, or else follows it as a user's message: many chat
    templates allow no system message there.
    """
    *earlier, last = question.messages
    request = _request(question)
    if last["role"] == "user":
        return [*earlier, {**last, "content": f"{last['content']}\n\n{request}"}]
    return [*question.messages, {"role": "user", "content": request}]


def response_format(question: Question, *, short: bool = False) -> JsonObject:
    """Return OpenAI's `response_format` for the judgement.

    `short`: limit each text to SHORT_CHARS (`maxLength`). Only for models of this server, because OpenAI's API refuses
    schemas with such a limit.
    """
    text = {"type": "string", "maxLength": SHORT_CHARS} if short else {"type": "string"}
    schema = {"name": "judgement", "strict": True, "schema": _schema(question, text)}
    return {"type": "json_schema", "json_schema": schema}


def parse(question: Question, text: str) -> float | str:
    """Return the number or the label of a judgement. Raises GradingError if the text is not a valid judgement."""
    if not text.lstrip().startswith("{"):
        text = text.rpartition(END_OF_REASONING)[2]
    try:
        result = Judgement.model_validate_json(text).result
    except ValidationError:
        raise _unusable(question) from None
    if question.labels is not None:
        usable = result in question.labels
    else:
        low, high = _bounds(question)
        usable = isinstance(result, float) and low <= result <= high
    if not usable:
        raise _unusable(question)
    return result


def _bounds(question: Question) -> tuple[float, float]:
    return UNIT if question.range is None else question.range


def _unusable(question: Question) -> GradingError:
    wanted = "a number in the range" if question.labels is None else "one of the labels"
    return GradingError("model_grader_parse_error", f"{question.model} did not answer with {wanted}, as JSON")


def _request(question: Question) -> str:
    if question.labels is not None:
        result = f"one of these labels: {', '.join(json.dumps(label, ensure_ascii=False) for label in question.labels)}"
    else:
        low, high = _bounds(question)
        result = f"a number from {low:g} to {high:g}"
    return (
        'Answer with a JSON object only: {"steps": [{"description": "…", "conclusion": "…"}], "result": …}. `steps` is '
        f"your reasoning, in at most {MAX_STEPS} short steps, and may be empty. `result` is {result}."
    )


def _schema(question: Question, text: dict[str, Any]) -> dict[str, Any]:
    if question.labels is not None:
        result: dict[str, Any] = {"type": "string", "enum": list(question.labels)}
    else:
        low, high = _bounds(question)
        result = {"type": "number", "minimum": low, "maximum": high}
    step = _object(description=text, conclusion=text)
    return _object(steps={"type": "array", "items": step, "maxItems": MAX_STEPS}, result=result)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
