"""The common part of graders that ask a model about an answer."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from api.spec.fields import StrictModel
from api.spec.graders.base import Case, GraderBase, GradingError, Messages, NamedModel, Question
from api.spec.graders.templates import MAX_RENDERED, Template, render


class TextPart(StrictModel):
    type: Literal["input_text", "output_text"]
    text: Template
    """A text with placeholders, such as `{{ sample.output_text }}`."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, part: object) -> object:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_image", "input_audio"):
            raise ValueError(f"'{kind}' cannot be graded: the models here read text only")
        return part


def _shape(content: object) -> str:
    if isinstance(content, str):
        return "text"
    return "parts" if isinstance(content, list) else "part"


# The discriminator makes a wrong value one error, instead of one for each member of the union.
Part = Annotated[Annotated[Template, Tag("text")] | Annotated[TextPart, Tag("part")], Discriminator(_shape)]
Content = Annotated[
    Annotated[Template, Tag("text")]
    | Annotated[TextPart, Tag("part")]
    | Annotated[list[Part], Field(min_length=1, max_length=16), Tag("parts")],
    Discriminator(_shape),
]


class Message(StrictModel):
    role: Literal["user", "assistant", "system", "developer"]
    """The author of the message. developer is read as system."""
    content: Content
    """A text, or several texts, each of which is then on its own line."""
    type: Literal["message"] | None = None

    @property
    def texts(self) -> list[str]:
        """The templates of the content."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return [part if isinstance(part, str) else part.text for part in parts]

    def render(self, case: Case) -> dict[str, str]:
        # `developer` is OpenAI's later name for `system`; templates of open models know only the latter.
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "\n".join(render(text, case) for text in self.texts)}


class ModelGrader(GraderBase):
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model that judges: a base or fine-tuned model, or a judge that the operator has configured. `score_model` may
    also name the model of a `reward` job."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)]
    """The conversation that the model reads. A reward model scores its last message."""

    @property
    def needs_model(self) -> bool:
        return True

    def models(self) -> Mapping[str, NamedModel]:
        return {"model": NamedModel(self.model)}

    def render(self, case: Case) -> Messages:
        """Return the conversation. Raises GradingError if a variable is missing, or if the text is too long."""
        messages = [message.render(case) for message in self.input]
        text = "".join(message["content"] for message in messages)
        if len(text) > MAX_RENDERED:
            message = f"the grader's messages have {len(text):,} characters; the most is {MAX_RENDERED:,}"
            raise GradingError("truncated_observation_error", message)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise GradingError(
                "other_error", "the grader's messages contain half of a character (a lone surrogate)"
            ) from None
        return messages

    def question(self, case: Case) -> Question:
        """Return the question to the judging model about an answer: the grader's messages with their variables filled
        in.

        Raises GradingError if the messages cannot be rendered.
        """
        return Question(self.model, self.render(case))

    def questions(self, case: Case) -> list[Question]:
        try:
            return [self.question(case)]
        except GradingError:
            return []  # grading then raises the same error
