import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from api.spec.fields import StrictModel
from api.spec.graders.base import Case, GraderBase, GradingError, Messages, Scores
from api.spec.graders.templates import Template, render


class TextPart(StrictModel):
    type: Literal["input_text", "output_text"]
    text: Template
    """A text with placeholders, such as `{{ sample.output_text }}`."""

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, part: object) -> object:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_image", "input_audio"):
            raise ValueError(f"'{kind}' cannot be scored: reward models read text only")
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


def _increasing(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the range must be increasing, but {bounds[0]:g} is not below {bounds[1]:g}")
    return bounds


def _no_sampling(given: object) -> None:
    if given:
        raise ValueError("a reward model samples no text: leave sampling_params out")


class ScoreModel(GraderBase):
    """The reward that the model of a `reward` job gives to a conversation. OpenAI asks a chat model for a number
    instead."""

    summary: ClassVar[str] = "The reward of a model that a reward job has trained."

    type: Literal["score_model"]
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model of a `reward` job."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)]
    """The conversation to score; its last message is the answer."""
    range: Annotated[tuple[float, float], AfterValidator(_increasing)] | None = None
    """A score outside the range is clamped to the nearer bound. Null (the default) leaves scores unchanged: rewards
    have no bounds, and OpenAI's default [0, 1] would cut off most of them."""
    sampling_params: Annotated[None, BeforeValidator(_no_sampling)] = None
    """OpenAI's parameter for a grader that generates text. Every value is refused."""

    @property
    def needs_model(self) -> bool:
        return True

    def reward_models(self) -> Mapping[str, str]:
        return {"model": self.model}

    def render(self, case: Case) -> Messages:
        """Return the conversation to score. Raises GradingError if a variable is missing."""
        return [message.render(case) for message in self.input]

    def questions(self, case: Case) -> list[tuple[str, Messages]]:
        try:
            return [(self.model, self.render(case))]
        except GradingError:
            return []  # grading then raises the same error

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        assert scores is not None, f"{self.name} needs scores of {self.model}"
        score = float(scores(self.model, self.render(case)))
        if not math.isfinite(score):
            raise GradingError(
                "model_grader_server_error", f"{self.model} returned {score}, which is not a finite number"
            )
        return score if self.range is None else min(max(score, self.range[0]), self.range[1])
