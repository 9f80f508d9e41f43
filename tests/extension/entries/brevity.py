from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from api.spec.graders.base import Case, GraderBase, Verdicts


class Brevity(GraderBase):
    """1 - n / N, for an answer of n characters; never below 0."""

    summary: ClassVar[str] = "Shorter answers are better."

    type: Literal["brevity"]
    characters: Annotated[int, Field(ge=1)] = 100
    """N"""

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return max(0.0, 1 - len(case.text) / self.characters)
