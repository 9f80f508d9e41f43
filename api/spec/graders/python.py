from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn

from pydantic import model_validator

from api.spec.graders.base import Case, GraderBase, Scores


class Python(GraderBase):
    """OpenAI's grader by a script. It is in the catalogue to be refused in words: a stranger's script needs a sandbox
    that keeps it from the machine, and there is none here yet."""

    summary: ClassVar[str] = "Refused until there is a sandbox to run scripts in."

    type: Literal["python"]
    source: str
    image_tag: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, data: Any) -> NoReturn:
        raise ValueError(
            "python graders cannot run here: there is no sandbox for their scripts yet. Use string_check, "
            "text_similarity or score_model, and multi to combine them"
        )

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> NoReturn:
        raise AssertionError("no python grader passes validation")
