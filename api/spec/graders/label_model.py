from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from api.spec.formats.base import truncate
from api.spec.graders.base import Case, NamedModel, Question, Verdicts
from api.spec.graders.model_grader import ModelGrader

MAX_LABELS = 64

Label = Annotated[str, Field(min_length=1, max_length=256)]


class LabelModel(ModelGrader):
    """1 if the label that a chat model chooses is one of `passing_labels`, else 0."""

    summary: ClassVar[str] = "1 if a chat model chooses a passing label, else 0."

    type: Literal["label_model"]
    labels: Annotated[list[Label], Field(min_length=1, max_length=MAX_LABELS)]
    """The labels of which the model chooses one."""
    passing_labels: Annotated[list[Label], Field(min_length=1, max_length=MAX_LABELS)]
    """The labels that count as 1. Each is one of `labels`."""

    @model_validator(mode="after")
    def _labels_are_a_choice(self) -> Self:
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: each label must be different from the others")
        if unknown := [label for label in self.passing_labels if label not in self.labels]:
            raise ValueError(f"passing_labels: '{truncate(unknown[0])}' is not one of labels")
        return self

    def models(self) -> Mapping[str, NamedModel]:
        return {"model": NamedModel(self.model, chat_only="it gives numbers, and label_model needs a label")}

    def question(self, case: Case) -> Question:
        return Question(self.model, self.render(case), labels=tuple(self.labels))

    def label(self, case: Case, verdicts: Verdicts) -> str:
        """Return the chosen label. Raises GradingError if the model chose none."""
        return str(verdicts[self.question(case).key].result)

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return float(self.label(case, verdicts) in self.passing_labels)
