import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from api.spec.fields import StrictModel
from api.spec.graders.base import Case, GraderBase, GradingError, Messages, Scores
from api.spec.graders.templates import Template, render


class TextPart(StrictModel):
    type: Literal["input_text", "output_text"]
    text: Template

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, part: Any) -> Any:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_image", "input_audio"):
            raise ValueError(f"'{kind}' cannot be scored: reward models here read text only")
        return part


def _shape(content: Any) -> str:
    if isinstance(content, str):
        return "text"
    return "parts" if isinstance(content, list) else "part"


# Tagged by shape, so that a wrong value is one error about the value and not one for each member of the union.
Part = Annotated[Annotated[Template, Tag("text")] | Annotated[TextPart, Tag("part")], Discriminator(_shape)]
Content = Annotated[
    Annotated[Template, Tag("text")]
    | Annotated[TextPart, Tag("part")]
    | Annotated[list[Part], Field(min_length=1, max_length=16), Tag("parts")],
    Discriminator(_shape),
]


class Message(StrictModel):
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    """A text, or several: each then stands in a line of its own."""
    type: Literal["message"] | None = None

    def render(self, case: Case) -> dict[str, str]:
        # `developer` is OpenAI's later name for `system`; templates of open models know only the latter.
        role = "system" if self.role == "developer" else self.role
        parts = self.content if isinstance(self.content, list) else [self.content]
        texts = [part if isinstance(part, str) else part.text for part in parts]
        return {"role": role, "content": "\n".join(render(text, case) for text in texts)}


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError(f"the range must rise, and {bounds[0]:g} is not below {bounds[1]:g}")
    return bounds


def _samples_nothing(given: Any) -> None:
    if given:
        raise ValueError("a reward model gives a number and samples nothing: leave sampling_params out")


class ScoreModel(GraderBase):
    """The reward that the model of a `reward` job gives to a conversation. At OpenAI a chat model is asked for a
    number; here a model that was trained to rank answers gives one."""

    summary: ClassVar[str] = "The reward of a model that a reward job has trained."

    type: Literal["score_model"]
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """The model of a `reward` job."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)]
    """The conversation whose reward is the score; its last message is the answer to judge."""
    range: Annotated[tuple[float, float], AfterValidator(_rises)] | None = None
    """A score outside is moved to the nearer end. Null leaves it as it is: a reward has no bounds of its own, and
    OpenAI's [0, 1] would cut most of it off."""
    sampling_params: Annotated[None, BeforeValidator(_samples_nothing)] = None
    """OpenAI's, for a judge that writes. Anything given here is refused."""

    @property
    def needs_model(self) -> bool:
        return True

    def reward_models(self) -> Mapping[str, str]:
        return {"model": self.model}

    def render(self, case: Case) -> Messages:
        """GradingError if a variable is missing."""
        return [message.render(case) for message in self.input]

    def questions(self, case: Case) -> list[tuple[str, Messages]]:
        try:
            return [(self.model, self.render(case))]
        except GradingError:
            return []  # the same error is what grading then tells

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        assert scores is not None, f"{self.name} needs scores of {self.model}"
        score = float(scores(self.model, self.render(case)))
        if not math.isfinite(score):
            raise GradingError("model_grader_server_error", f"{self.model} gave {score}, which is no reward")
        return score if self.range is None else min(max(score, self.range[0]), self.range[1])
