from collections.abc import Mapping
from typing import ClassVar, Literal, NoReturn

from pydantic import model_validator

from api.spec.graders.base import Case, GraderBase, Scores


class Python(GraderBase):
    """OpenAI's grader that runs a Python script.

    The catalogue has it so that it can be refused with a clear message: a user's script needs a sandbox, and Attune has
    none yet.
    """

    summary: ClassVar[str] = "Refused until there is a sandbox to run scripts in."

    type: Literal["python"]
    source: str
    """The script."""
    image_tag: str | None = None
    """The image that would run the script."""

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, data: object) -> NoReturn:
        raise ValueError(
            "python graders are not supported: Attune has no sandbox for their scripts yet. Use string_check, "
            "text_similarity or score_model, and multi to combine them"
        )

    def reward(self, case: Case, rewards: Mapping[str, float], scores: Scores | None) -> NoReturn:
        raise AssertionError("no python grader passes validation")
