from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from api.spec.graders.base import Case, GraderBase, Verdicts
from api.spec.graders.templates import Template, render

OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheck(GraderBase):
    """1 if the input equals (eq), differs from (ne) or contains (like; ilike: ignoring case) the reference, else 0."""

    summary: ClassVar[str] = "1 if the text equals a reference, or contains it; else 0."

    type: Literal["string_check"]
    input: Template
    """The text to check, such as `{{ sample.output_text }}`."""
    reference: Template
    """The text to compare with, such as `{{ item.answer }}`."""
    operation: Literal["eq", "ne", "like", "ilike"]
    """eq: equal; ne: different; like: contains the reference; ilike: the same, ignoring case."""

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return float(OPERATIONS[self.operation](render(self.input, case), render(self.reference, case)))
