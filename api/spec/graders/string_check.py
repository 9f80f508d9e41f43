from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

from api.spec.graders.base import Case, GraderBase, Scores
from api.spec.graders.templates import Template, render

OPERATIONS: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheck(GraderBase):
    """1 where the input is (eq), is not (ne) or contains (like; ilike: in any case) the reference, 0 where not."""

    summary: ClassVar[str] = "Equal to a reference, or containing it: 1 or 0."

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> float:
        return float(OPERATIONS[self.operation](render(self.input, case), render(self.reference, case)))
